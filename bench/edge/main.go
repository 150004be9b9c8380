// Command edge measures what the edge costs: authentication by API key, scope, rate limits and tenant, compared with the
// same stack without them and a bare Connect handler, in the same run. ../README.md explains how to read it.
//
// It needs PostgreSQL (DATABASE_URL) and Redis (REDIS_URL), by default those on this machine. It creates a database of its
// own, and drops it at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"connectrpc.com/connect"

	"plinth/bench/command"
	"plinth/bench/cost"
)

// maxEdge is the promise: the most that the edge may add to the cost of the stack, as a fraction of the bare handler's cost.
const maxEdge = 0.15

func main() {
	command.Main(func(ctx context.Context, args []string, w io.Writer) error {
		if len(args) == 2 && args[0] == "serve" {
			return cost.Serve(handlerOf(ctx, args[1]), os.Stdin, os.Stdout)
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
	tenants int    // tenants of the crowd, with keysOfEach keys each
	only    string // part of the benchmark: cost, pressure, or empty for both

	attacked time.Duration // for how long each attack goes on
	letters  int           // dead letters of the attacker
}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := bench{calls: 3_000, rounds: 90, tenants: 1000, attacked: 20 * time.Second, letters: 500_000}
	flags := flag.NewFlagSet("edge", flag.ContinueOnError)
	flags.IntVar(&b.rounds, "rounds", b.rounds, "rounds for each server and kind of client")
	flags.IntVar(&b.calls, "calls", b.calls, "calls of one round")
	flags.BoolVar(&b.check, "check", false, "fail if the promise is broken")
	flags.StringVar(&b.profile, "profile", "", "`folder` for CPU profiles of one more round each")
	flags.DurationVar(&b.attacked, "for", b.attacked, "how long each attack goes on")
	flags.StringVar(&b.only, "only", "", "`part`: cost or pressure")
	short := flags.Bool("short", false, "3 rounds of 5,000 calls and 10 tenants: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		b.calls, b.rounds, b.tenants, b.attacked, b.letters = 5_000, 3, 10, 2*time.Second, 10_000
	}
	if b.rounds < 1 || b.calls < 10 {
		return errors.New("-rounds must be at least 1 and -calls at least 10")
	}
	var broken []error
	if b.only != "pressure" {
		broken = append(broken, b.run(ctx, out))
	}
	if b.only != "cost" {
		broken = append(broken, b.pressure(ctx, out))
	}
	return errors.Join(broken...)
}

// contest is a server, and the keys that it is called with in turn. What it adds is how much more it costs than another
// contest.
type contest struct {
	name, than string
	keys       []string
	server     *cost.Process
	turns      []connect.ClientOption // send the keys in turn, over all rounds
}

// measure returns the CPU seconds of the server for 100,000 calls.
func (c *contest) measure(ctx context.Context, k cost.Kind, calls int) (float64, error) {
	seconds, err := cost.Measure(ctx, c.server, k, calls, c.turns...)
	if err != nil {
		return 0, fmt.Errorf("%s, %s: %w", c.name, k.Name, err)
	}
	return seconds, nil
}

// greet makes one call with each key, because the first call with a key looks it up. A service that has run for a while has
// seen most keys.
func (c *contest) greet(ctx context.Context) error {
	client, done := cost.Kinds()[0].Dial(c.server.Address, c.turns...)
	defer done()
	return cost.Load(ctx, client, len(c.keys))
}

// result is the cost of one kind of client for each server, in CPU seconds for 100,000 calls, with a value for each round.
type result struct {
	kind  cost.Kind
	costs map[string][]float64
}

// added returns how much more a contest costs than the one it is compared with, as a fraction of the bare handler's cost:
// the median of all rounds. Other work of the machine in a round affects all three.
func (r result) added(c *contest) float64 {
	added := make([]float64, len(r.costs[c.name]))
	for i, seconds := range r.costs[c.name] {
		added[i] = (seconds - r.costs[c.than][i]) / r.costs["bare"][i]
	}
	return cost.Median(added)
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
	// Each contest is a server and who calls it: one key, or all of the crowd in turn. A server without the edge gets the
	// same keys and ignores them, because so many different headers cost any server something. "again" is "full" once more:
	// what it seems to add shows how much equal servers differ.
	one, all := tenancy.keys[:1], tenancy.keys
	contests := []*contest{
		{name: "bare", keys: one},
		{name: "full", keys: one},
		{name: "again", than: "full", keys: one},
		{name: "edge", than: "full", keys: one},
		{name: "headers", than: "full", keys: all},
		{name: "crowd", than: "headers", keys: all},
	}
	for _, c := range contests {
		if c.server, err = cost.Start(c.name); err != nil {
			return fmt.Errorf("start the server of %s: %w", c.name, err)
		}
		defer c.server.Stop()
		c.turns = rotating(c.keys)
		if err := c.greet(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for range b.rounds {
		for _, r := range results {
			for _, c := range contests {
				seconds, err := c.measure(ctx, r.kind, b.calls)
				if err != nil {
					return err
				}
				r.costs[c.name] = append(r.costs[c.name], seconds)
			}
		}
	}
	if err := b.profiles(ctx, results, contests); err != nil {
		return err
	}
	broken := report(out, results, contests)
	if b.check {
		return broken
	}
	return nil
}

// profiles writes a CPU profile of each server under each kind of client.
func (b bench) profiles(ctx context.Context, results []result, contests []*contest) error {
	if b.profile == "" {
		return nil
	}
	for _, r := range results {
		for _, c := range contests {
			round := func() error { _, err := c.measure(ctx, r.kind, b.calls); return err }
			if err := c.server.Profile(b.profile, r.kind.Name, round); err != nil {
				return err
			}
		}
	}
	return nil
}

// report prints the results. Its error names the results that break the promise.
func report(out io.Writer, results []result, contests []*contest) error {
	var broken []error
	fmt.Fprintf(out, "CPU seconds of the server for 100,000 calls: median (least..most)\n\n")
	fmt.Fprintf(out, "%-8s %-8s %-22s %s\n", "client", "server", "cost", "adds of bare")
	for _, r := range results {
		for _, c := range contests {
			fmt.Fprintf(out, "%-8s %-8s %-22s", r.kind.Name, c.name, cost.Spread(r.costs[c.name]))
			if c.than != "" {
				added := r.added(c)
				fmt.Fprintf(out, " %6.3f to %s", added, c.than)
				if promised := c.name == "edge" || c.name == "crowd"; promised && added > maxEdge {
					broken = append(broken, fmt.Errorf("%s: %s adds %.3f of the bare handler, promised is %.2f at most", r.kind.Name, c.name, added, maxEdge))
				}
			}
			fmt.Fprintln(out)
		}
	}
	return errors.Join(broken...)
}
