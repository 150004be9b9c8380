package main

import (
	"fmt"
	"net/http"
	"runtime/debug"

	"plinth/bench/cost"
	"plinth/internal/observe"
	"plinth/internal/rpc"
)

// handlerOf returns the function that creates the handler of the named server.
func handlerOf(name string) func(*observe.Logs) (http.Handler, error) {
	return func(logs *observe.Logs) (http.Handler, error) {
		switch name {
		case "bare":
			return cost.Bare(), nil
		case "full":
			debug.SetGCPercent(rpc.GCPercent) // As app.Main does.
			return cost.Full(rpc.Config{Log: logs.Access})
		default:
			return nil, fmt.Errorf("no server is called %q", name)
		}
	}
}
