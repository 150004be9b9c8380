// Command rpc measures what the rpc stack costs: it compares the CPU time of a server with the whole stack with that of a
// bare Connect handler, in the same run. ../README.md explains how to read it.
//
// It starts itself again for each of the two servers, so that their CPU time does not include that of the load.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"plinth/bench/command"
	"plinth/bench/cost"
)

// The promises.
const (
	maxFullToBare = 1.35
	maxGzipToNone = 1.25 // the cost of a client that offers gzip to one that does not, both with the full stack
)

func main() {
	command.Main(func(ctx context.Context, args []string, w io.Writer) error {
		if len(args) == 2 && args[0] == "serve" {
			return cost.Serve(handlerOf(args[1]), os.Stdin, os.Stdout)
		}
		return run(ctx, args, w)
	})
}

// bench holds the parameters of a run.
type bench struct {
	calls   int // per round
	rounds  int
	check   bool
	profile string // folder for CPU profiles, empty for none
}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := bench{calls: 100_000, rounds: 5}
	flags := flag.NewFlagSet("rpc", flag.ContinueOnError)
	flags.IntVar(&b.rounds, "rounds", b.rounds, "rounds for each server and kind of client")
	flags.BoolVar(&b.check, "check", false, "fail if a promise is broken")
	flags.StringVar(&b.profile, "profile", "", "`folder` for CPU profiles of one more round each")
	short := flags.Bool("short", false, "3 rounds of 5,000 calls: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		b.calls, b.rounds = 5_000, 3
	}
	if b.rounds < 1 {
		return errors.New("-rounds must be at least 1")
	}
	return b.run(ctx, out)
}

func (b bench) run(ctx context.Context, out io.Writer) error {
	servers := make([]*cost.Process, 2)
	for i, name := range []string{"bare", "full"} {
		p, err := cost.Start(name)
		if err != nil {
			return fmt.Errorf("start the %s server: %w", name, err)
		}
		defer p.Stop()
		servers[i] = p
	}
	results := make([]result, len(cost.Kinds()))
	// The servers take turns, and so do the kinds of clients within each round, so that other work of the machine affects
	// all of them.
	for range b.rounds {
		for i, k := range cost.Kinds() {
			results[i].kind = k
			for _, p := range servers {
				seconds, err := cost.Measure(ctx, p, k, b.calls)
				if err != nil {
					return fmt.Errorf("%s server, %s: %w", p.Name, k.Name, err)
				}
				results[i].add(p.Name, seconds)
			}
		}
	}
	broken := report(out, results)
	if err := b.profiles(ctx, servers); err != nil {
		return err
	}
	if b.check {
		return broken
	}
	return nil
}

// profiles writes a CPU profile of each server under each kind of client.
func (b bench) profiles(ctx context.Context, servers []*cost.Process) error {
	if b.profile == "" {
		return nil
	}
	for _, k := range cost.Kinds() {
		for _, p := range servers {
			if err := p.Profile(b.profile, k.Name, func() error { _, err := cost.Measure(ctx, p, k, b.calls); return err }); err != nil {
				return err
			}
		}
	}
	return nil
}

// result is the cost of one kind of client for the servers, in CPU seconds for 100,000 calls, with a value for each round.
type result struct {
	kind       cost.Kind
	bare, full []float64
}

func (r *result) add(server string, seconds float64) {
	if server == "bare" {
		r.bare = append(r.bare, seconds)
	} else {
		r.full = append(r.full, seconds)
	}
}

// report prints the results. Its error names the promises that they break.
func report(out io.Writer, results []result) error {
	var broken []error
	judge := func(what string, ratio, most float64) {
		if ratio > most {
			broken = append(broken, fmt.Errorf("%s is %.3f, promised is %.2f at most", what, ratio, most))
		}
	}
	fmt.Fprintf(out, "CPU seconds of the server for 100,000 calls: median (least..most)\n\n")
	fmt.Fprintf(out, "%-14s %-22s %-22s %9s %9s\n", "client", "bare", "full", "full/bare", "gzip/none")
	full := map[string]float64{}
	for _, r := range results {
		seconds := cost.Median(r.full)
		ratio := seconds / cost.Median(r.bare)
		judge(r.kind.Name+": full/bare", ratio, maxFullToBare)
		full[r.kind.Name] = seconds
		gzip := ""
		if none, ok := full[r.kind.Without]; ok {
			gzip = fmt.Sprintf("%9.2f", seconds/none)
			judge(r.kind.Name+": gzip/none", seconds/none, maxGzipToNone)
		}
		fmt.Fprintf(out, "%-14s %-22s %-22s %9.2f %s\n", r.kind.Name, cost.Spread(r.bare), cost.Spread(r.full), ratio, gzip)
	}
	return errors.Join(broken...)
}
