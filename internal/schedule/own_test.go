package schedule_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/loop"
	"plinth/internal/schedule"
)

// admin returns a context of an administrator who acts for a tenant.
func admin(t *testing.T, tenant string) context.Context {
	t.Helper()
	return auth.With(t.Context(), &auth.Principal{ID: "admin", Tenant: auth.Tenant{Name: tenant}, Scopes: []string{auth.Admin}})
}

// owning returns a process with jobs of the service itself.
func (f *fixture) owning(t *testing.T, redis string, jobs ...loop.Job) *process {
	t.Helper()
	client, err := kv.Open("redis://" + redis + "?max_retries=-1&dial_timeout=200ms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	p := f.configured(t, schedule.Config{Redis: client})
	p.Own(jobs...)
	return p
}

// counted is a job that counts its runs.
func counted(name string, interval time.Duration, n *atomic.Int64, err error) loop.Job {
	return loop.Job{Name: name, About: "counts", Interval: interval, Run: func(context.Context) error { n.Add(1); return err }}
}

// One of the workers does a job in an interval, and none again after a restart; each run is recorded, also those that fail.
func TestOwnJobs(t *testing.T) {
	t.Parallel()
	f, redis := newFixture(t), miniredis.RunT(t)
	var hourly, failing, panics atomic.Int64
	jobs := []loop.Job{
		counted("hourly", time.Hour, &hourly, nil), counted("failing", time.Hour, &failing, errors.New("no luck")),
		{Name: "panics", Interval: time.Hour, Run: func(context.Context) error { panics.Add(1); panic("ouch") }},
	}
	var stops []func()
	for range 3 {
		stops = append(stops, f.owning(t, redis.Addr(), jobs...).work(t))
	}
	ended := func(n int64) func() bool {
		return func() bool { return f.count(t, `SELECT count(*) FROM schedule_runs WHERE ended_at IS NOT NULL`) == n }
	}
	eventually(t, "all jobs are done", ended(3))
	for _, stop := range stops {
		stop()
	}
	p := f.owning(t, redis.Addr(), jobs...)
	stop := p.work(t)
	eventually(t, "the worker has asked for all jobs", func() bool { return redis.CommandCount() > 0 })
	stop()
	if hourly.Load() != 1 || failing.Load() != 1 || panics.Load() != 1 {
		t.Errorf("they ran %d, %d and %d times", hourly.Load(), failing.Load(), panics.Load())
	}
	ctx := admin(t, "acme")
	for name, want := range map[string]struct {
		state schedule.State
		err   string
	}{"hourly": {schedule.Succeeded, ""}, "failing": {schedule.Failed, "no luck"}, "panics": {schedule.Failed, "panic: ouch"}} {
		all := runs(t, p, ctx, "plinth."+name)
		if len(all) != 1 || all[0].State != want.state || all[0].Error != want.err || all[0].Worker == "" || all[0].EndedAt.IsZero() {
			t.Errorf("%s: %+v", name, all)
		}
		s, err := p.Get(ctx, parse(t, "plinth."+name))
		if err != nil || s.Stats.Fired != 1 || s.Stats.Failed == 1 != (want.state == schedule.Failed) || len(s.Next) != 1 || time.Until(s.Next[0]) < 50*time.Minute {
			t.Errorf("%s: %+v %v", name, s, err)
		}
		if r, err := p.GetRun(ctx, parse(t, "plinth."+name), all[0].ID); err != nil || r.State != want.state {
			t.Errorf("%+v %v", r, err)
		}
	}
	// Once the interval is over, the next run is anybody's.
	redis.FastForward(time.Hour)
	p.work(t)
	eventually(t, "all jobs are done again", ended(6))
}

// While Redis is away, each worker does the jobs.
func TestOwnJobsWithoutRedis(t *testing.T) {
	t.Parallel()
	f, redis := newFixture(t), miniredis.RunT(t)
	address := redis.Addr()
	redis.Close()
	var n [2]atomic.Int64
	for i := range n {
		f.owning(t, address, counted("often", 200*time.Millisecond, &n[i], nil)).work(t)
	}
	for i := range n {
		eventually(t, "each worker does it", func() bool { return n[i].Load() >= 3 })
	}
	eventually(t, "all runs are recorded", func() bool { return f.count(t, `SELECT count(*) FROM schedule_runs WHERE state = 'succeeded'`) >= 6 })
}

// Administrators see the jobs between their schedules, page by page; nobody else does, and nobody changes them.
func TestOwnJobsAreReadOnly(t *testing.T) {
	t.Parallel()
	f, redis := newFixture(t), miniredis.RunT(t)
	var n atomic.Int64
	p := f.owning(t, redis.Addr(), counted("b", time.Hour, &n, nil), counted("a", time.Hour, &n, nil))
	ctx, boss := as(t, "acme"), admin(t, "acme")
	for _, name := range []string{"alpha", "plinth", "plinthy", "zeta"} {
		p.create(t, ctx, name, every(time.Hour))
	}
	names := func(ctx context.Context, size int) (all []string) {
		t.Helper()
		for token := ""; ; {
			page, next, err := p.List(ctx, size, token)
			if err != nil || len(page) > size {
				t.Fatalf("%d %v", len(page), err)
			}
			for _, s := range page {
				all = append(all, s.Name.String())
			}
			if token = next; token == "" {
				return all
			}
		}
	}
	for size := 1; size <= 7; size++ {
		if got, want := names(boss, size), []string{"alpha", "plinth", "plinth.a", "plinth.b", "plinthy", "zeta"}; !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v", size, got)
		}
		if got, want := names(ctx, size), []string{"alpha", "plinth", "plinthy", "zeta"}; !slices.Equal(got, want) {
			t.Errorf("a tenant sees %v", got)
		}
	}
	p.work(t)
	eventually(t, "they ran", func() bool { return n.Load() == 2 })
	own := parse(t, "plinth.a")
	for who, c := range map[string]struct {
		ctx  context.Context
		kind errs.Kind
	}{"a tenant": {ctx, errs.NotFound}, "an administrator": {boss, errs.FailedPrecondition}} {
		for what, change := range map[string]func(context.Context) error{
			"update": func(ctx context.Context) error {
				_, err := p.Update(ctx, own, 0, func(*schedule.Definition) {})
				return err
			},
			"delete":  func(ctx context.Context) error { return p.Delete(ctx, own) },
			"pause":   func(ctx context.Context) error { _, err := p.Pause(ctx, own, ""); return err },
			"resume":  func(ctx context.Context) error { _, err := p.Resume(ctx, own, ""); return err },
			"trigger": func(ctx context.Context) error { _, err := p.Trigger(ctx, own, schedule.Triggered{}); return err },
			"backfill": func(ctx context.Context) error {
				_, err := p.Backfill(ctx, own, schedule.BackfillRequest{})
				return err
			},
		} {
			if err := change(c.ctx); !errs.Is(err, c.kind) || c.kind == errs.FailedPrecondition && !strings.Contains(err.Error(), "built in") {
				t.Errorf("%s by %s: %v", what, who, err)
			}
		}
	}
	if _, err := p.Get(ctx, own); !errs.Is(err, errs.NotFound) {
		t.Errorf("a tenant gets %v", err)
	}
	if _, _, err := p.ListRuns(ctx, own, schedule.RunFilter{}, 1, ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("a tenant lists runs: %v", err)
	}
	if _, err := p.Get(boss, parse(t, "plinth.none")); !errs.Is(err, errs.NotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	if _, err := p.Create(boss, parse(t, "plinth.mine"), every(time.Hour)); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("one of ours: %v", err)
	}
}

// A run whose worker died is one that failed, once a later one begins.
func TestOwnJobWorkerLoss(t *testing.T) {
	t.Parallel()
	f, redis := newFixture(t), miniredis.RunT(t)
	var n atomic.Int64
	job := counted("job", time.Minute, &n, nil)
	first := f.owning(t, redis.Addr(), job)
	stop := first.work(t)
	eventually(t, "it ran", func() bool { return f.count(t, `SELECT count(*) FROM schedule_runs WHERE state = 'succeeded'`) == 1 })
	stop()
	f.exec(t, `UPDATE schedule_runs SET state = 'running', ended_at = NULL, started_at = now() - interval '1 hour'`)
	redis.FlushAll()
	f.owning(t, redis.Addr(), job).work(t)
	eventually(t, "the lost run has failed", func() bool {
		return f.count(t, `SELECT count(*) FROM schedule_runs WHERE state = 'failed' AND error = 'the worker was lost'`) == 1
	})
}
