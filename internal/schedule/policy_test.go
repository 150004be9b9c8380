package schedule_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/schedule"
)

// With CANCEL_OTHER the next run starts once the one before has ended, and not while that still ends.
func TestCancelOtherWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, let := make(chan string, 10), make(chan struct{})
	p, ctx := f.process(t, schedule.Job{Name: "slow", Run: func(ctx context.Context) error {
		began <- schedule.AttemptOf(ctx).RunID
		<-ctx.Done()
		<-let
		return ctx.Err()
	}}), as(t, "acme")
	p.work(t)
	d := daily("slow")
	d.Overlap = schedule.CancelOther
	p.create(t, ctx, "s", d)
	first := p.trigger(t, ctx, "s")
	<-began
	second := p.trigger(t, ctx, "s")
	select {
	case id := <-began:
		t.Errorf("%s begins while %s ends", id, first.ID)
	case <-time.After(500 * time.Millisecond):
	}
	let <- struct{}{}
	if id := <-began; id != second.ID {
		t.Errorf("%s begins", id)
	}
	p.becomes(t, ctx, "s", first.ID, schedule.Cancelled)
	if _, err := p.CancelRun(ctx, parse(t, "s"), second.ID); err != nil {
		t.Error(err)
	}
	let <- struct{}{}
	p.becomes(t, ctx, "s", second.ID, schedule.Cancelled)
}

// What is older than the catch-up window is missed, whatever the policy.
func TestCatchUpWindow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d := every(time.Minute)
	d.CatchUp, d.CatchUpWindow = schedule.CatchUpAll, 10*time.Minute
	p.create(t, ctx, "s", d)
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '3630 seconds', next_fire_at = now() - interval '3570 seconds',
		next_due_at = now() - interval '3570 seconds'`)
	p.work(t)
	eventually(t, "it is caught up", func() bool { return f.count(t, `SELECT count(*) FROM schedules WHERE next_fire_at > now()`) == 1 })
	if s, err := p.Get(ctx, parse(t, "s")); err != nil || s.Stats.Fired != 10 || s.Stats.Missed != 50 {
		t.Errorf("%+v %v", s.Stats, err)
	}
}

// Jitter never moves a run to the next fire time or beyond.
func TestJitterStaysBelowTheNextFireTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.process(t)
	timing := schedule.Timing{Interval: time.Second, Jitter: time.Hour}
	got, err := p.Preview(as(t, "acme"), timing, schedule.Asked{Name: "s", Count: 500})
	if err != nil {
		t.Fatal(err)
	}
	most := time.Duration(0)
	for _, fire := range got.Fires {
		by := fire.Due.Sub(fire.Time)
		if most = max(most, by); by < 0 || by >= time.Second {
			t.Fatalf("%v is due %v later", fire.Time, by)
		}
	}
	if most < 900*time.Millisecond {
		t.Errorf("the jitter is at most %v", most)
	}
}

// A success ends the failures that pause a schedule: those in a row count.
func TestSuccessEndsFailures(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	p, ctx := f.process(t, g.job()), as(t, "acme")
	p.work(t)
	d := daily("gate")
	d.PauseAfterFailures = 2
	p.create(t, ctx, "s", d)
	for i, state := range []schedule.State{schedule.Failed, schedule.Succeeded, schedule.Failed, schedule.Failed} {
		r := p.trigger(t, ctx, "s")
		g.begins(t)
		if state == schedule.Failed {
			g.let <- errors.New("no luck")
		} else {
			g.let <- nil
		}
		p.becomes(t, ctx, "s", r.ID, state)
		if s, err := p.Get(ctx, parse(t, "s")); err != nil || (s.Pause != nil) != (i == 3) {
			t.Errorf("after run %d: %+v %v", i, s.Pause, err)
		}
	}
}

// A backfill with BUFFER_ONE keeps one run for when the others are over, and skips the rest.
func TestBackfillBuffersOne(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	p, ctx := f.process(t, g.job()), as(t, "acme")
	p.work(t)
	d := berlin()
	d.Action = daily("gate").Action
	p.create(t, ctx, "s", d)
	other := p.trigger(t, ctx, "s")
	g.begins(t)
	done := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: at(t, "2025-06-01T00:00:00Z"), End: at(t, "2025-06-05T00:00:00Z"), Overlap: schedule.BufferOne})
	if b, err := p.GetBackfill(ctx, parse(t, "s"), done.ID); err != nil || b.Queued != 1 || b.Active != 0 {
		t.Errorf("%+v %v", b, err)
	}
	g.let <- nil
	p.becomes(t, ctx, "s", other.ID, schedule.Succeeded)
	g.begins(t)
	g.let <- nil
	p.ends(t, ctx, "s", done.ID)
	for i, r := range runs(t, p, ctx, "s")[1:] {
		if (r.State == schedule.Succeeded) != (i == 0) || (r.State == schedule.Skipped) != (i > 0) {
			t.Errorf("run %d is %s", i, r.State)
		}
	}
}

// An interval that has a start has no fire times before it.
func TestBackfillBeforeTheStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	d := every(time.Hour)
	d.StartTime = at(t, "2025-06-01T00:00:00Z")
	p.create(t, ctx, "s", d)
	dry := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: at(t, "2025-05-31T22:00:00Z"), End: at(t, "2025-06-01T01:30:00Z"), DryRun: true})
	if got := times(dry.Fires); len(got) != 2 || got[0] != "2025-06-01T00:00:00Z" {
		t.Errorf("%v", got)
	}
}

// A job's lock is kept for most of its interval, though the job has ended long before.
func TestOwnLockIsKept(t *testing.T) {
	t.Parallel()
	f, redis := newFixture(t), miniredis.RunT(t)
	p := f.owning(t, redis.Addr(), loop.Job{Name: "hourly", Interval: time.Hour, Run: func(context.Context) error { return nil }})
	p.work(t)
	eventually(t, "the job is done", func() bool { return f.count(t, `SELECT count(*) FROM schedule_runs WHERE ended_at IS NOT NULL`) == 1 })
	keys := redis.Keys()
	if len(keys) != 1 || redis.TTL(keys[0]) < 50*time.Minute || redis.TTL(keys[0]) >= time.Hour {
		t.Errorf("%q for %v", keys, redis.TTL(keys[0]))
	}
}

// A sealed secret is of use to its own tenant alone, and the job that seals anew looks at headers as well as at signing secrets.
func TestSealedForATenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old, both := f.sealing(t, oldKey), f.sealing(t, newKey+","+oldKey)
	both.create(t, as(t, "acme"), "s", request("http://127.0.0.1:1/"))
	old.create(t, as(t, "acme"), "old", request("http://127.0.0.1:1/"))
	const header = `definition #>> '{action,http,headers,Authorization}'`
	f.exec(t, `UPDATE schedules SET definition = jsonb_set(definition::jsonb, '{action,http,headers,Authorization}',
		(SELECT definition::jsonb #> '{action,http,headers,Authorization}' FROM schedules WHERE name = 'old'))::json WHERE name = 's'`)
	sealAnew(t, both)
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE split_part(`+header+`, ':', 2) <> split_part(definition #>> '{action,http,secret}', ':', 2)`); n != 0 {
		t.Errorf("%d headers are sealed with another key", n)
	}
	both.create(t, as(t, "globex"), "s", request("http://127.0.0.1:1/"))
	f.exec(t, `UPDATE schedules SET definition = (SELECT definition FROM schedules WHERE tenant = 'acme' AND name = 's') WHERE tenant = 'globex'`)
	_, err := both.Update(as(t, "globex"), parse(t, "s"), 0, func(d *schedule.Definition) { d.Description = "theirs" })
	if !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a secret of another tenant: %v", err)
	}
}
