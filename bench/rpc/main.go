// Command rpc measures what the rpc stack costs: the CPU time of a server with the whole stack beside that of a bare
// Connect handler, in the same run. ../README.md says how to read it.
//
// It starts itself again for each of the two servers, so that their CPU time holds nothing of the load's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
)

// What is promised.
const (
	maxFullToBare = 1.35
	maxGzipToNone = 1.25 // of a client that offers gzip to one that does not, both at the full stack
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		err = serve(os.Args[2], os.Stdin, os.Stdout)
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
	servers := make([]*process, 2)
	for i, name := range []string{"bare", "full"} {
		p, err := start(name)
		if err != nil {
			return fmt.Errorf("start the %s server: %w", name, err)
		}
		defer p.stop()
		servers[i] = p
	}
	results := make([]result, len(kinds()))
	// The servers take turns, and the kinds of clients within each round, so that what else the machine does falls on all.
	for range b.rounds {
		for i, k := range kinds() {
			results[i].kind = k
			for _, p := range servers {
				cost, err := b.measure(ctx, p, k)
				if err != nil {
					return fmt.Errorf("%s server, %s: %w", p.name, k.name, err)
				}
				results[i].add(p.name, cost)
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

// measure gives the CPU seconds that the server spends on 100,000 calls.
func (b bench) measure(ctx context.Context, p *process, k kind) (float64, error) {
	client, done := k.dial(p.address)
	defer done()
	if err := load(ctx, client, b.calls/10); err != nil { // Connections, pools and the heap's size come first.
		return 0, err
	}
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	if err := load(ctx, client, b.calls); err != nil {
		return 0, err
	}
	after, err := p.cpu()
	return (after - before).Seconds() * 100_000 / float64(b.calls), err
}

// profiles writes a CPU profile of each server under each kind of client.
func (b bench) profiles(ctx context.Context, servers []*process) error {
	if b.profile == "" {
		return nil
	}
	for _, k := range kinds() {
		for _, p := range servers {
			file, err := filepath.Abs(filepath.Join(b.profile, p.name+"-"+k.name+".pprof"))
			if err != nil {
				return err
			}
			if _, err := p.ask("profile " + file); err != nil {
				return err
			}
			if _, err := b.measure(ctx, p, k); err != nil {
				return err
			}
			if _, err := p.ask("stop"); err != nil {
				return err
			}
		}
	}
	return nil
}

// result is what one kind of client costs the servers, in CPU seconds for 100,000 calls, a value for each round.
type result struct {
	kind       kind
	bare, full []float64
}

func (r *result) add(server string, cost float64) {
	if server == "bare" {
		r.bare = append(r.bare, cost)
	} else {
		r.full = append(r.full, cost)
	}
}

// report prints the results. The error names the promises that they break.
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
		cost := median(r.full)
		ratio := cost / median(r.bare)
		judge(r.kind.name+": full/bare", ratio, maxFullToBare)
		full[r.kind.name] = cost
		gzip := ""
		if none, ok := full[r.kind.without]; ok {
			gzip = fmt.Sprintf("%9.2f", cost/none)
			judge(r.kind.name+": gzip/none", cost/none, maxGzipToNone)
		}
		fmt.Fprintf(out, "%-14s %-22s %-22s %9.2f %s\n", r.kind.name, spread(r.bare), spread(r.full), ratio, gzip)
	}
	return errors.Join(broken...)
}

func spread(costs []float64) string {
	return fmt.Sprintf("%.2f (%.2f..%.2f)", median(costs), slices.Min(costs), slices.Max(costs))
}

func median(costs []float64) float64 {
	sorted := slices.Sorted(slices.Values(costs))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
