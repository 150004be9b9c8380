package schedule_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/schedule"
)

// A worker whose run is another's notices when it renews its lease, and the token that it has is refused though the run goes on.
func TestLostToAnotherWorker(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, fenced := make(chan struct{}), make(chan error, 1)
	p, ctx := f.configured(t, schedule.Config{Lease: time.Second, Jobs: []schedule.Job{{Name: "fenced", Run: func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		fenced <- f.db.InTx(context.WithoutCancel(ctx), func(tx *pg.Tx) error { return schedule.Fence(ctx, tx) })
		return ctx.Err()
	}}}}), as(t, "acme")
	p.work(t)
	p.create(t, ctx, "s", daily("fenced"))
	r := p.trigger(t, ctx, "s")
	<-began
	f.exec(t, `UPDATE schedule_runs SET token = nextval('schedule_run_tokens'), worker = 'other', attempt = attempt + 1, next_at = now() + interval '1 hour'`)
	select {
	case err := <-fenced:
		if !errs.Is(err, errs.Aborted) {
			t.Errorf("the token of a run that is another's: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the loss is not noticed")
	}
	if got, err := p.GetRun(ctx, parse(t, "s"), r.ID); err != nil || got.State != schedule.Running || got.Worker != "other" {
		t.Errorf("%+v %v", got, err)
	}
}

// A run that ends its process each time does not do so for ever.
func TestRunThatLosesItsWorkers(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	p, ctx := f.configured(t, schedule.Config{Jobs: []schedule.Job{g.job()}, Lease: 30 * time.Second}), as(t, "acme")
	p.work(t)
	d := daily("gate")
	p.create(t, ctx, "s", d)
	r := p.trigger(t, ctx, "s")
	for number := 1; number <= 4; number++ {
		if a := g.begins(t); a.RunID != r.ID || a.Number != number {
			t.Fatalf("%+v begins as the %dth", a, number)
		}
		f.exec(t, `UPDATE schedule_runs SET token = token - 1, next_at = now() WHERE state = 'running'`)
		f.exec(t, `SELECT pg_notify('plinth_schedules', 'runs')`)
	}
	if r = p.becomes(t, ctx, "s", r.ID, schedule.Failed); r.Attempt != 4 || !strings.Contains(r.Error, "was lost") {
		t.Errorf("%+v", r)
	}
}
