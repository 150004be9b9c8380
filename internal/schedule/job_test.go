package schedule_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/schedule"
)

// gate is a job that tells when it began, and ends when it is let go or its context does.
type gate struct {
	began chan schedule.Attempt
	let   chan error
	ended *atomic.Int64
}

func newGate() gate {
	return gate{make(chan schedule.Attempt, 100), make(chan error, 100), new(atomic.Int64)}
}

// over returns how often the job has ended.
func (g gate) over() int { return int(g.ended.Load()) }

func (g gate) job() schedule.Job {
	return schedule.Job{Name: "gate", Run: func(ctx context.Context) error {
		g.began <- schedule.AttemptOf(ctx)
		defer g.ended.Add(1)
		select {
		case err := <-g.let:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

func (g gate) begins(t *testing.T) schedule.Attempt {
	t.Helper()
	select {
	case a := <-g.began:
		return a
	case <-time.After(20 * time.Second):
		t.Fatal("the job does not begin")
		return schedule.Attempt{}
	}
}

// daily is a definition that runs a job, and does not fire while a test runs.
func daily(job string) schedule.Definition {
	return schedule.Definition{Timing: schedule.Timing{Interval: 24 * time.Hour}, Action: schedule.Action{Job: &schedule.JobRequest{Name: job}}}
}

func (p *process) create(t *testing.T, ctx context.Context, name string, d schedule.Definition) {
	t.Helper()
	if _, err := p.Create(ctx, parse(t, name), d); err != nil {
		t.Fatal(err)
	}
}

func (p *process) trigger(t *testing.T, ctx context.Context, name string) schedule.Run {
	t.Helper()
	r, err := p.Trigger(ctx, parse(t, name), schedule.Triggered{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// becomes waits until a run is in a state, and returns it.
func (p *process) becomes(t *testing.T, ctx context.Context, name, id string, state schedule.State) (r schedule.Run) {
	t.Helper()
	eventually(t, "the run is "+string(state), func() bool {
		var err error
		if r, err = p.GetRun(ctx, parse(t, name), id); err != nil {
			t.Fatal(err)
		}
		return r.State == state
	})
	return r
}

// A job gets what it needs to know, and what it writes is kept with its run, up to a bound.
func TestJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var got schedule.Attempt
	p, ctx := f.process(t, schedule.Job{Name: "talk", Run: func(ctx context.Context) error {
		got = schedule.AttemptOf(ctx)
		log := schedule.Log(ctx).With(zap.Int("step", 1))
		log.Debug("not kept")
		log.Info("first", zap.String("with", "field"))
		for range 2000 {
			schedule.Log(ctx).Warn("more")
		}
		return nil
	}}), as(t, "acme")
	p.work(t)
	d := daily("talk")
	d.Action.Job.Arguments = json.RawMessage(`{"of":"schedule"}`)
	p.create(t, ctx, "s", d)
	r := p.trigger(t, ctx, "s")
	r = p.becomes(t, ctx, "s", r.ID, schedule.Succeeded)
	if got.RunID != r.ID || got.Number != 1 || got.Token == 0 || string(got.Arguments) != `{"of":"schedule"}` || got.Schedule.String() != "s" {
		t.Errorf("the job got %+v", got)
	}
	if len(r.Log) != 1000 || !r.LogCut || r.Log[0].Message != `first {"step":1,"with":"field"}` || r.Log[0].Level != "info" {
		t.Errorf("kept are %d lines, cut %v: %+v", len(r.Log), r.LogCut, r.Log[:1])
	}
	own, err := p.Trigger(ctx, parse(t, "s"), schedule.Triggered{Arguments: json.RawMessage(`{"of":"trigger"}`)})
	if err != nil {
		t.Fatal(err)
	}
	p.becomes(t, ctx, "s", own.ID, schedule.Succeeded)
	if string(got.Arguments) != `{"of":"trigger"}` {
		t.Errorf("the job got %s", got.Arguments)
	}
}

// What happens while a run is not over is as the policy says.
func TestOverlap(t *testing.T) {
	t.Parallel()
	for policy, want := range map[schedule.Overlap][]schedule.State{
		schedule.Skip:        {schedule.Running, schedule.Skipped, schedule.Skipped, schedule.Skipped},
		schedule.BufferOne:   {schedule.Running, schedule.Claimed, schedule.Skipped, schedule.Skipped},
		schedule.BufferAll:   {schedule.Running, schedule.Claimed, schedule.Claimed, schedule.Skipped},
		schedule.Allow:       {schedule.Running, schedule.Running, schedule.Running, schedule.Running},
		schedule.CancelOther: {schedule.Cancelled, schedule.Cancelled, schedule.Cancelled, schedule.Running},
	} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			f, g := newFixture(t), newGate()
			p, ctx := f.process(t, g.job()), as(t, "acme")
			p.work(t)
			d := daily("gate")
			d.Overlap, d.MaxBuffered = policy, 2
			p.create(t, ctx, "s", d)
			var ids []string
			for i := range want {
				ids = append(ids, p.trigger(t, ctx, "s").ID)
				if i == 0 || policy == schedule.Allow {
					g.begins(t)
				}
			}
			for i, state := range want {
				p.becomes(t, ctx, "s", ids[i], state)
			}
			if policy == schedule.CancelOther {
				return
			}
			for range want {
				g.let <- nil
			}
			for i, state := range want {
				if state != schedule.Skipped {
					p.becomes(t, ctx, "s", ids[i], schedule.Succeeded)
				}
			}
			if s, err := p.Get(ctx, parse(t, "s")); err != nil || s.Stats.Buffered != 0 || len(s.Running) != 0 {
				t.Errorf("%+v %v", s, err)
			}
		})
	}
}

// A run that is cancelled ends by its context, and its token is refused.
func TestCancelRun(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, fenced := make(chan struct{}), make(chan error, 2)
	p, ctx := f.process(t, schedule.Job{Name: "fenced", Run: func(ctx context.Context) error {
		fence := func() {
			fenced <- f.db.InTx(context.WithoutCancel(ctx), func(tx *pg.Tx) error { return schedule.Fence(ctx, tx) })
		}
		fence()
		close(began)
		<-ctx.Done()
		fence()
		return ctx.Err()
	}}), as(t, "acme")
	p.work(t)
	p.create(t, ctx, "s", daily("fenced"))
	r := p.trigger(t, ctx, "s")
	<-began
	if err := <-fenced; err != nil {
		t.Errorf("the token of a run that has not ended: %v", err)
	}
	if got, err := p.CancelRun(ctx, parse(t, "s"), r.ID); err != nil || got.State != schedule.Running {
		t.Errorf("%+v %v", got, err)
	}
	p.becomes(t, ctx, "s", r.ID, schedule.Cancelled)
	if err := <-fenced; !errs.Is(err, errs.Aborted) || errs.Retryable(err) {
		t.Errorf("the token of a run that was cancelled: %v", err)
	}
	if _, err := p.CancelRun(ctx, parse(t, "s"), r.ID); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("cancelled twice: %v", err)
	}
}

// Failed attempts are repeated, and a schedule that keeps failing pauses itself.
func TestRetryAndPauseAfterFailures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var mu sync.Mutex
	attempts := map[string]int{}
	p, ctx := f.process(t, schedule.Job{Name: "fails", Run: func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		attempts[schedule.AttemptOf(ctx).RunID]++
		return errors.New("no luck")
	}}), as(t, "acme")
	p.work(t)
	d := daily("fails")
	d.Retry = schedule.Retry{MaxAttempts: 3, MinBackoff: 100 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
	d.PauseAfterFailures = 2
	p.create(t, ctx, "s", d)
	for i := range 2 {
		r := p.trigger(t, ctx, "s")
		if r = p.becomes(t, ctx, "s", r.ID, schedule.Failed); r.Attempt != 3 || attempts[r.ID] != 3 || r.Error != "no luck" {
			t.Errorf("the job was called %d times for %+v", attempts[r.ID], r)
		}
		s, err := p.Get(ctx, parse(t, "s"))
		if err != nil || (s.Pause != nil) != (i == 1) || s.Stats.Failed != int64(i+1) {
			t.Errorf("after %d failures: %+v %v", i+1, s, err)
		}
		if i == 1 && (s.Pause.By != "service" || len(s.Next) != 0) {
			t.Errorf("%+v fires at %v", s.Pause, s.Next)
		}
	}
	again := runs(t, p, ctx, "s")[0]
	if _, err := p.RetryRun(ctx, parse(t, "s"), again.ID); err != nil {
		t.Fatal(err)
	}
	if r := p.becomes(t, ctx, "s", again.ID, schedule.Failed); r.Attempt != 4 {
		t.Errorf("retried by hand: %+v", r)
	}
}

// A run whose worker says nothing any longer is another worker's, and the first one cannot write what became of it.
func TestWorkerLoss(t *testing.T) {
	t.Parallel()
	for policy, want := range map[schedule.WorkerLoss]schedule.State{schedule.LossRetry: schedule.Succeeded, schedule.LossFail: schedule.Failed} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			g := newGate()
			p, ctx := f.configured(t, schedule.Config{Jobs: []schedule.Job{g.job()}, Lease: time.Second}), as(t, "acme")
			p.work(t)
			d := daily("gate")
			d.OnWorkerLoss = policy
			p.create(t, ctx, "s", d)
			r := p.trigger(t, ctx, "s")
			first := g.begins(t)
			// As if the worker had stood still for longer than its lease.
			f.exec(t, `UPDATE schedule_runs SET token = token - 1, next_at = now() WHERE state = 'running'`)
			f.exec(t, `SELECT pg_notify('plinth_schedules', 'runs')`)
			if policy == schedule.LossRetry {
				second := g.begins(t)
				if second.RunID != first.RunID || second.Number != 2 || second.Token <= first.Token {
					t.Errorf("first %+v, second %+v", first, second)
				}
				eventually(t, "the first attempt is lost", func() bool { return f.logs.FilterMessage("a run was lost").Len() == 1 })
				g.let <- nil
			}
			p.becomes(t, ctx, "s", r.ID, want)
		})
	}
}

// A job that the end of its worker cuts off starts again, and no failure is recorded.
func TestStop(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	g := newGate()
	p, ctx := f.configured(t, schedule.Config{Jobs: []schedule.Job{g.job()}, Drain: 50 * time.Millisecond}), as(t, "acme")
	stop := p.work(t)
	p.create(t, ctx, "s", daily("gate"))
	r := p.trigger(t, ctx, "s")
	g.begins(t)
	stop()
	if got, err := p.GetRun(ctx, parse(t, "s"), r.ID); err != nil || got.State != schedule.Claimed || got.Attempt != 0 {
		t.Errorf("%+v %v", got, err)
	}
	other := f.process(t, g.job())
	other.work(t)
	if again := g.begins(t); again.RunID != r.ID || again.Number != 1 {
		t.Errorf("%+v", again)
	}
	g.let <- nil
	p.becomes(t, ctx, "s", r.ID, schedule.Succeeded)
}
