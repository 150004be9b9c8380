// Command edge measures what the edge costs: authentication by API key, scope, rate limits and tenant, beside the same stack
// without them and a bare Connect handler, in the same run. ../README.md says how to read it.
//
// It needs PostgreSQL (DATABASE_URL) and Redis (REDIS_URL), by default those on this machine, and makes a database of its own,
// which it removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"plinth/bench/cost"
)

// maxEdge is what is promised: how much the edge adds to the stack, as a part of the bare handler's cost.
const maxEdge = 0.15

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		err = cost.Serve(handlerOf(ctx, os.Args[2]), os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bench is what one run does.
type bench struct {
	calls   int // of one round
	rounds  int
	check   bool
	tenants int // of the crowd, with keysOfEach keys each
}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := bench{calls: 100_000, rounds: 5, tenants: 1000}
	flags := flag.NewFlagSet("edge", flag.ContinueOnError)
	flags.IntVar(&b.rounds, "rounds", b.rounds, "rounds for each server and kind of client")
	flags.IntVar(&b.calls, "calls", b.calls, "calls of one round")
	flags.BoolVar(&b.check, "check", false, "fail if the promise is broken")
	short := flags.Bool("short", false, "2 rounds of 5,000 calls and 10 tenants: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		b.calls, b.rounds, b.tenants = 5_000, 2, 10
	}
	if b.rounds < 1 || b.calls < 10 {
		return errors.New("-rounds must be at least 1 and -calls at least 10")
	}
	return b.run(ctx, out)
}

// result is what one kind of client costs each server, in CPU seconds for 100,000 calls, a value for each round.
type result struct {
	kind  cost.Kind
	costs map[string][]float64
}

func (b bench) run(ctx context.Context, out io.Writer) error {
	tenancy, err := openTenancy(ctx, b.tenants)
	if err != nil {
		return err
	}
	defer tenancy.close()
	var results []result
	for _, k := range cost.Kinds() {
		if k.Without == "" {
			results = append(results, result{k, map[string][]float64{}})
		}
	}
	// Each contest is a server and who calls it: one key, or all of the crowd in turn.
	contests := []struct {
		name, server string
		keys         []string
	}{
		{"bare", "bare", nil}, {"full", "full", nil}, {"edge", "edge", tenancy.keys[:1]}, {"crowd", "edge", tenancy.keys},
	}
	servers := map[string]*cost.Process{}
	for _, name := range []string{"bare", "full", "edge"} {
		p, err := cost.Start(name)
		if err != nil {
			return fmt.Errorf("start the %s server: %w", name, err)
		}
		defer p.Stop()
		servers[name] = p
	}
	for range b.rounds {
		for _, r := range results {
			for _, c := range contests {
				seconds, err := cost.Measure(ctx, servers[c.server], r.kind, b.calls, rotating(c.keys)...)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, r.kind.Name, err)
				}
				r.costs[c.name] = append(r.costs[c.name], seconds)
			}
		}
	}
	broken := report(out, results, len(tenancy.keys), b.tenants)
	if b.check {
		return broken
	}
	return nil
}

// report prints the results. The error names where the promise is broken.
func report(out io.Writer, results []result, keys, tenants int) error {
	var broken []error
	fmt.Fprintf(out, "CPU seconds of the server for 100,000 calls: median (least..most); crowd is %d keys of %d tenants\n\n", keys, tenants)
	fmt.Fprintf(out, "%-8s %-22s %-22s %-22s %-22s %9s %9s\n", "client", "bare", "full", "edge", "crowd", "edge adds", "crowd")
	for _, r := range results {
		bare, full := cost.Median(r.costs["bare"]), cost.Median(r.costs["full"])
		added := map[string]float64{}
		for _, name := range []string{"edge", "crowd"} {
			added[name] = (cost.Median(r.costs[name]) - full) / bare
			if added[name] > maxEdge {
				broken = append(broken, fmt.Errorf("%s: %s adds %.3f of the bare handler, promised is %.2f at most", r.kind.Name, name, added[name], maxEdge))
			}
		}
		fmt.Fprintf(out, "%-8s %-22s %-22s %-22s %-22s %9.3f %9.3f\n", r.kind.Name, cost.Spread(r.costs["bare"]), cost.Spread(r.costs["full"]),
			cost.Spread(r.costs["edge"]), cost.Spread(r.costs["crowd"]), added["edge"], added["crowd"])
	}
	return errors.Join(broken...)
}
