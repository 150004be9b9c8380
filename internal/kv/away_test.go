package kv_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"plinth/internal/kv"
)

// TestAwayReplies has a server reply with each of the errors, of which those that pass by themselves are being away.
func TestAwayReplies(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := open(t, "redis://"+server.Addr()+"?max_retries=-1")
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for reply, away := range map[string]bool{
		"LOADING Redis is loading the dataset in memory":                                         true,
		"READONLY You can't write against a read only replica.":                                  true,
		"ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write":      true,
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":       true,
		"CLUSTERDOWN Hash slot not served":                                                       true,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                true,
		"NOREPLICAS Not enough good replicas to write.":                                          true,
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": true,
		"ERR max number of clients reached":                                                      true,
		"BUSYGROUP Consumer Group name already exists":                                           false,
		"CROSSSLOT Keys in request don't hash to the same slot":                                  false,
		"MOVED 3999 127.0.0.1:6381":                                                              false,
		"NOSCRIPT No matching script. Please use EVAL.":                                          false,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                      false,
		"NOPERM this user has no permissions to run the 'get' command":                           false,
		"NOAUTH Authentication required.":                                                        false,
		"WRONGPASS invalid username-password pair or user is disabled.":                          false,
		"OOM command not allowed when used memory > 'maxmemory'.":                                false,
		"MISCONF Redis is configured to save RDB snapshots, but it is currently not able to":     false,
		"ERR unknown command 'evalsha'":                                                          false,
	} {
		server.SetError(reply)
		err := client.Set(t.Context(), "k", 1, 0).Err()
		if err == nil || kv.Away(err) != away || kv.Away(fmt.Errorf("set: %w", err)) != away {
			t.Errorf("%v: away %v", err, kv.Away(err))
		}
	}
}

func TestAwayErrors(t *testing.T) {
	t.Parallel()
	for _, away := range []error{
		&net.OpError{Op: "dial", Err: errors.New("connection refused")}, io.EOF, io.ErrUnexpectedEOF, os.ErrDeadlineExceeded,
		context.DeadlineExceeded, redis.ErrClosed, redis.ErrPoolTimeout, fmt.Errorf("get: %w", io.EOF),
	} {
		if !kv.Away(away) {
			t.Errorf("%v is not away", away)
		}
	}
	for _, other := range []error{nil, redis.Nil, context.Canceled, fmt.Errorf("get: %w", redis.Nil)} {
		if kv.Away(other) {
			t.Errorf("%v is away", other)
		}
	}
}
