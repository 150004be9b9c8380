// Command cache measures what the cache adds to Redis and to a transaction, beside both of them bare, in the same run.
// ../README.md explains how to read it.
//
// It needs PostgreSQL (DATABASE_URL) and Redis (REDIS_URL), by default those on this machine, and makes a database of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"plinth/bench/command"
)

// What is promised.
const (
	hitRatio = 1.3 // of a GET
	rpcRatio = 2.5 // of a GET, median
	nearHit  = 300 * time.Nanosecond
	txAdds   = 500 * time.Microsecond
)

func main() { command.Main(run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("cache", flag.ContinueOnError)
	calls := flags.Int("calls", 20_000, "calls of each")
	only := flags.String("only", "", "the contests whose names begin so, such as tx; nothing is judged")
	check := flags.Bool("check", false, "fail if a promise is broken")
	short := flags.Bool("short", false, "100 calls of each: shows that it works, judges nothing")
	profile := flags.String("profile", "", "write a CPU profile of this process to a file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*calls = 100
	}
	b, err := open(ctx)
	defer b.close()
	if err != nil {
		return err
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	contests := slices.DeleteFunc(b.contests(), func(c contest) bool { return !strings.HasPrefix(c.name, *only) })
	took, err := measure(ctx, contests, *calls)
	if err != nil {
		return err
	}
	for _, c := range b.contests() { // In their order.
		if all := took[c.name]; len(all) > 0 {
			slices.Sort(all)
			fmt.Fprintf(out, "%-22s p50 %10v  p90 %10v  p99 %10v of %d\n", c.name, at(all, 50), at(all, 90), at(all, 99), len(all))
		}
	}
	if n := b.loads.Load(); n > 0 {
		fmt.Fprintf(out, "%d hits were loads, since Redis had not answered in 50 ms: they say little\n", n)
	}
	if *only != "" {
		return nil
	}
	return judge(out, took, *check)
}

// judge prints what is promised beside what was measured.
func judge(out io.Writer, took map[string][]time.Duration, check bool) error {
	median := func(name string) time.Duration { return at(took[name], 50) }
	get := float64(median("get"))
	hit, call := float64(median("remember"))/get, float64(median("rpc"))/get
	adds := median("tx, invalidates") - median("tx")
	fmt.Fprintf(out, "a hit is %.2f of a GET (%.1f), an RPC %.2f (%.1f), near is %v (%v), InvalidateTx adds %v (%v)\n",
		hit, hitRatio, call, rpcRatio, median("near"), nearHit, adds, txAdds)
	if check && (hit > hitRatio || call > rpcRatio || median("near") > nearHit || adds > txAdds) {
		return errors.New("a promise is broken")
	}
	return nil
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)-1)*percent/100]
}

// contest is what is measured.
type contest struct {
	name string
	call func(ctx context.Context) error
	// times is how many calls are measured as one, since one alone takes as long as reading the clock.
	times int
}

// measure returns how long n calls of each took, after a tenth of them to warm up. They follow one another in an order that is drawn anew
// each time: a thousand calls of one kind in a row take several times as long in one run as in the next.
func measure(ctx context.Context, contests []contest, n int) (map[string][]time.Duration, error) {
	took := map[string][]time.Duration{}
	for i := range n + n/10 {
		rand.Shuffle(len(contests), func(i, j int) { contests[i], contests[j] = contests[j], contests[i] })
		for _, c := range contests {
			began := time.Now()
			for range c.times {
				if err := c.call(ctx); err != nil {
					return nil, fmt.Errorf("%s: %w", c.name, err)
				}
			}
			if i >= n/10 {
				took[c.name] = append(took[c.name], time.Since(began)/time.Duration(c.times))
			}
		}
	}
	return took, nil
}
