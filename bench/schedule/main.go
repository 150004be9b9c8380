// Command schedule measures how late schedules fire, how many fire a second, what that costs a worker, and how long an outage takes to catch
// up, beside gocron in the same run. ../README.md explains how to read it.
//
// It needs PostgreSQL (DATABASE_URL), by default that on this machine, and makes a database of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-co-op/gocron/v2"

	"plinth/bench/command"
	"plinth/internal/cron"
)

// What is promised, for 10,000 schedules.
const (
	lateness  = 50 * time.Millisecond // p99 of those that are spread
	rate      = 3_000                 // fires a second of those that are due at once
	cpuOfFire = 150 * time.Microsecond
	outage    = 10 * time.Second
	nextUsual = 5 * time.Microsecond
	nextWorst = time.Millisecond
)

func main() { command.Main(run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("schedule", flag.ContinueOnError)
	n := flags.Int("schedules", 10_000, "schedules")
	spread := flags.Duration("spread", time.Minute, "interval over which those of the first contest are spread")
	check := flags.Bool("check", false, "fail if a promise is broken")
	short := flags.Bool("short", false, "200 schedules, spread over 5 seconds: shows that it works, judges nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*n, *spread = 200, 5*time.Second
	}
	broken := false
	promise := func(held bool) string {
		if held {
			return ""
		}
		broken = true
		return "  (promise broken)"
	}
	usual, worst, allocs := nextTimes()
	fmt.Fprintf(out, "next time: %v usually, %v at worst, %d allocations%s\n", usual, worst, allocs,
		promise(usual <= nextUsual && worst <= nextWorst && allocs == 0))

	theirs, err := gocronSpread(ctx, *n, *spread)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "spread, gocron: p50 %v, p99 %v late, of %d\n", at(theirs, 50), at(theirs, 99), len(theirs))
	if theirs, err = gocronBurst(ctx, *n); err != nil {
		return err
	}
	fmt.Fprintf(out, "at once, gocron: %.0f a second, the last %v late, of %d\n", float64(len(theirs))/at(theirs, 100).Seconds(), at(theirs, 100), len(theirs))

	b, err := open(ctx)
	defer b.close()
	if err != nil {
		return err
	}
	ours, err := b.spread(ctx, *n, *spread)
	if err != nil {
		return fmt.Errorf("spread: %w", err)
	}
	fmt.Fprintf(out, "spread: p50 %v, p99 %v late, of %d%s\n", at(ours, 50), at(ours, 99), len(ours), promise(at(ours, 99) <= lateness && len(ours) >= *n))
	took, spent, err := b.burst(ctx, *n, 0)
	if err != nil {
		return fmt.Errorf("at once: %w", err)
	}
	fires, each := float64(*n)/took.Seconds(), spent/time.Duration(*n)
	fmt.Fprintf(out, "at once: %.0f a second, %v of CPU a fire%s\n", fires, each, promise(fires >= rate && each <= cpuOfFire))
	if took, _, err = b.burst(ctx, *n, time.Hour); err != nil {
		return fmt.Errorf("outage: %w", err)
	}
	fmt.Fprintf(out, "after an hour's outage: %v%s\n", took, promise(took <= outage))
	if *check && broken {
		return errors.New("a promise is broken")
	}
	return nil
}

// at returns a percentile of sorted durations.
func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)].Round(10 * time.Microsecond)
}

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// nextTimes returns what a next time costs: of usual expressions in a zone with daylight saving, and of one that looks far ahead.
func nextTimes() (usual, worst time.Duration, allocs int64) {
	berlin, err := new(cron.Zones).Load("Europe/Berlin")
	if err != nil {
		panic(err) // It is linked in.
	}
	from := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	for expression, costs := range map[string]*time.Duration{"*/5 * * * *": &usual, "30 2 * * *": &usual, "0 9 * * MON-FRI": &usual, "0 0 29 2 *": &worst} {
		spec, err := cron.Parse(expression)
		if err != nil {
			panic(err)
		}
		result := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for moment := from; b.Loop(); {
				next, _ := spec.Next(moment, berlin, cron.Policy{})
				if moment = next.Time; moment.Year() > 2100 {
					moment = from
				}
			}
		})
		*costs, allocs = max(*costs, time.Duration(result.NsPerOp())), max(allocs, result.AllocsPerOp())
	}
	return usual, worst, allocs
}

// late collects how late jobs of gocron are.
type late struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *late) add(planned time.Time) {
	by := time.Since(planned)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, by)
}

func (l *late) sorted() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.all)
	slices.Sort(all)
	return all
}

func gocronSpread(ctx context.Context, n int, spread time.Duration) ([]time.Duration, error) {
	return gocronAt(ctx, n, spread, func(begin time.Time, i int) time.Time { return begin.Add(spread * time.Duration(i) / time.Duration(n)) })
}

func gocronBurst(ctx context.Context, n int) ([]time.Duration, error) {
	return gocronAt(ctx, n, 0, func(begin time.Time, _ int) time.Time { return begin })
}

// gocronAt has gocron run each job once, and returns how late they were.
func gocronAt(ctx context.Context, n int, length time.Duration, planned func(begin time.Time, i int) time.Time) ([]time.Duration, error) {
	scheduler, err := gocron.NewScheduler()
	if err != nil {
		return nil, err
	}
	defer func() { _ = scheduler.Shutdown() }()
	var l late
	begin := time.Now().Add(5 * time.Second)
	scheduler.Start()
	for i := range n {
		when := planned(begin, i)
		if _, err := scheduler.NewJob(gocron.OneTimeJob(gocron.OneTimeJobStartDateTime(when)), gocron.NewTask(func() { l.add(when) })); err != nil {
			return nil, err
		}
	}
	deadline := begin.Add(length + 30*time.Second)
	for time.Now().Before(deadline) && len(l.sorted()) < n {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return l.sorted(), nil
}
