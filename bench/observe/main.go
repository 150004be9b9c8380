// Command observe measures what it costs to see everything: it compares the CPU time of a server whose calls are logged, counted
// and traced, one in a hundred recorded and exported, with that of a bare Connect handler, of a bare one that is seen the stock way,
// and of the stack without traces, in the same run. ../README.md explains how to read it.
//
// It starts itself again for each of the servers, so that their CPU time does not include that of the load.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"plinth/bench/command"
	"plinth/bench/cost"
	"plinth/internal/observe"
	"plinth/internal/rpc"
)

// names are those of the servers.
var names = []string{"bare", "stock", "full", "traced"}

// The promises: of the traced server to the bare one.
var most = map[string]float64{"grpc": 1.25, "json": 1.40}

func main() {
	command.Main(func(ctx context.Context, args []string, w io.Writer) error {
		if len(args) == 2 && args[0] == "serve" {
			return cost.Serve(handlerOf(args[1]), os.Stdin, os.Stdout)
		}
		return run(ctx, args, w)
	})
}

// ratio is how many of the traces are recorded.
const ratio = 0.01

// handlerOf returns the function that creates the handler of a server: its name, and the URL of a collector if it has traces.
func handlerOf(server string) func(*observe.Logs) (http.Handler, error) {
	name, url, _ := strings.Cut(server, ":")
	return func(logs *observe.Logs) (http.Handler, error) {
		switch name {
		case "bare":
			return cost.Bare(), nil
		case "stock":
			file, err := os.CreateTemp("", "bench-")
			if err != nil {
				return nil, err
			}
			_ = os.Remove(file.Name()) // It is there until the process ends.
			return stock(url, file)
		}
		debug.SetGCPercent(rpc.GCPercent) // As app.Main does.
		cfg := rpc.Config{Log: logs.Access}
		if name == "traced" {
			var err error
			if cfg.Tracing, err = observe.NewTracing(context.Background(), observe.TracingConfig{
				Endpoint: url, Protocol: "http/protobuf", Timeout: 10 * time.Second, Sampler: "traceidratio", Ratio: ratio, Service: "bench",
				Recent: true, Log: logs.Main,
			}); err != nil {
				return nil, err
			}
		}
		return cost.Full(cfg)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	calls, rounds := 100_000, 5
	flags := flag.NewFlagSet("observe", flag.ContinueOnError)
	flags.IntVar(&rounds, "rounds", rounds, "rounds for each server and kind of client")
	check := flags.Bool("check", false, "fail if a promise is broken")
	profile := flags.String("profile", "", "`folder` for CPU profiles of one more round each")
	short := flags.Bool("short", false, "3 rounds of 5,000 calls: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		calls, rounds = 5_000, 3
	}
	if rounds < 1 {
		return errors.New("-rounds must be at least 1")
	}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer collector.Close()
	servers := make([]*cost.Process, len(names))
	for i, name := range names {
		p, err := cost.Start(name + ":" + collector.URL + "/v1/traces")
		if err != nil {
			return fmt.Errorf("start the %s server: %w", name, err)
		}
		defer p.Stop()
		p.Name = name
		servers[i] = p
	}
	seconds := map[string][][]float64{}
	// The servers take turns, so that other work of the machine affects all of them.
	for range rounds {
		for _, k := range cost.Kinds() {
			if most[k.Name] == 0 {
				continue
			}
			if seconds[k.Name] == nil {
				seconds[k.Name] = make([][]float64, len(servers))
			}
			for i, p := range servers {
				took, err := cost.Measure(ctx, p, k, calls)
				if err != nil {
					return fmt.Errorf("%s server, %s: %w", p.Name, k.Name, err)
				}
				seconds[k.Name][i] = append(seconds[k.Name][i], took)
			}
		}
	}
	if *profile != "" {
		for _, p := range servers {
			for _, k := range cost.Kinds() {
				if most[k.Name] == 0 {
					continue
				}
				if err := p.Profile(*profile, k.Name, func() error { _, err := cost.Measure(ctx, p, k, calls); return err }); err != nil {
					return fmt.Errorf("profile the %s server, %s: %w", p.Name, k.Name, err)
				}
			}
		}
	}
	return report(out, seconds, *check)
}

// report prints the costs of each kind of client, those of a server in the order of names. Its error names the promises that they break.
func report(out io.Writer, seconds map[string][][]float64, check bool) error {
	var broken []error
	fmt.Fprintf(out, "CPU seconds of the server for 100,000 calls: median (least..most), and in relation to bare\n\n")
	fmt.Fprintf(out, "%-7s %-21s %-26s %-26s %-26s\n", "client", names[0], names[1], names[2], names[3])
	for _, kind := range []string{"grpc", "json"} {
		bare := cost.Median(seconds[kind][0])
		fmt.Fprintf(out, "%-7s %-21s", kind, cost.Spread(seconds[kind][0]))
		for i, of := range seconds[kind][1:] {
			to := cost.Median(of) / bare
			fmt.Fprintf(out, " %-26s", fmt.Sprintf("%s %.2f", cost.Spread(of), to))
			if names[i+1] == "traced" && to > most[kind] {
				broken = append(broken, fmt.Errorf("%s: traced/bare is %.3f, promised is %.2f at most", kind, to, most[kind]))
			}
		}
		fmt.Fprintln(out)
	}
	if check {
		return errors.Join(broken...)
	}
	return nil
}
