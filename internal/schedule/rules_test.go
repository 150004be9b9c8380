package schedule_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/schedule"
)

func (p *process) update(t *testing.T, ctx context.Context, name string, edit func(*schedule.Definition)) schedule.Schedule {
	t.Helper()
	s, err := p.Update(ctx, parse(t, name), 0, edit)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An update wants the version that it was made for, and one of something else than the timing moves no fire time.
func TestUpdate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	made, err := p.Create(ctx, parse(t, "s"), every(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	describe := func(text string) func(*schedule.Definition) {
		return func(d *schedule.Definition) { d.Description = text }
	}
	s, err := p.Update(ctx, parse(t, "s"), made.Version, describe("first"))
	if err != nil || s.Version != made.Version+1 || s.Description != "first" || s.UpdatedBy != "key:acme" {
		t.Fatalf("%+v %v", s, err)
	}
	if _, err := p.Update(ctx, parse(t, "s"), made.Version, describe("second")); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("an update for another version: %v", err)
	}
	if got, err := p.Get(ctx, parse(t, "s")); err != nil || got.Description != "first" || !slices.EqualFunc(got.Next, made.Next, time.Time.Equal) {
		t.Errorf("%+v %v; it fired at %v", got, err, made.Next)
	}
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE next_due_at = next_fire_at`); n != 1 {
		t.Error("it is not due any longer")
	}
	if same := p.update(t, ctx, "s", describe("first")); same.Version != s.Version {
		t.Errorf("an update that changes nothing makes version %d of %d", same.Version, s.Version)
	}
	// Another interval counts from when the schedule was made, and fires later than now.
	other := p.update(t, ctx, "s", func(d *schedule.Definition) { d.Interval = 7 * time.Minute })
	if want := made.CreatedAt.Add(7 * time.Minute); !other.Next[0].Equal(want) {
		t.Errorf("it fires at %v, not %v", other.Next[0], want)
	}
	changes, _, err := p.ListScheduleChanges(ctx, parse(t, "s"), 10, "")
	if err != nil || len(changes) != 3 || !slices.Equal(changes[0].Fields, []string{"interval"}) || !slices.Equal(changes[1].Fields, []string{"description"}) {
		t.Errorf("%+v %v", changes, err)
	}
}

// An edit of the timing while a fire time is past, and its jitter delays it still, leaves that fire time its run; the new timing
// fires after it.
func TestEditWhileJittered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d := every(2 * time.Hour)
	d.Jitter = time.Hour
	p.create(t, ctx, "s", d)
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '121 minutes', next_fire_at = now() - interval '1 minute', next_due_at = now() + interval '30 minutes'`)
	edited := p.update(t, ctx, "s", func(d *schedule.Definition) { d.Interval, d.Jitter = 3*time.Hour, 0 })
	all := runs(t, p, ctx, "s")
	if len(all) != 1 || all[0].State != schedule.Claimed || time.Since(all[0].FireAt) > 2*time.Minute || all[0].Version != 1 || all[0].DueAt.Before(all[0].FireAt) {
		t.Fatalf("%+v", all)
	}
	if !edited.Next[0].After(edited.UpdatedAt) {
		t.Errorf("it fires at %v", edited.Next)
	}
}

// What is past when a pause begins has its runs; the fire times of the pause are one skipped run, which is written when it ends.
func TestPause(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	p.create(t, ctx, "s", every(time.Minute))
	s, err := p.Pause(ctx, parse(t, "s"), "holidays")
	if err != nil || s.Pause == nil || s.Pause.Note != "holidays" || s.Pause.By != "key:acme" || len(s.Next) != 0 {
		t.Fatalf("%+v %v", s, err)
	}
	// An hour of pause, whose last fire time was 30 s ago.
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '3630 seconds', next_fire_at = now() - interval '3570 seconds', paused_at = now() - interval '3600 seconds'`)
	if _, err := p.Pause(ctx, parse(t, "s"), "longer holidays"); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Get(ctx, parse(t, "s")); err != nil || got.Pause.Note != "longer holidays" || time.Since(got.Pause.At) < time.Minute || len(runs(t, p, ctx, "s")) != 0 {
		t.Errorf("%+v %v", got.Pause, err)
	}
	if s, err = p.Resume(ctx, parse(t, "s"), "back"); err != nil || s.Pause != nil || !s.Next[0].After(time.Now().Add(-time.Second)) {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := p.Resume(ctx, parse(t, "s"), "twice"); err != nil {
		t.Error(err)
	}
	all := runs(t, p, ctx, "s")
	if len(all) != 1 || all[0].State != schedule.Skipped || all[0].SkipReason != "paused" || all[0].MissedCount != 60 ||
		all[0].MissedUntil.Sub(all[0].FireAt) != 59*time.Minute {
		t.Errorf("%+v", all)
	}
	changes, _, err := p.ListScheduleChanges(ctx, parse(t, "s"), 10, "")
	if err != nil || len(changes) != 4 || changes[0].Kind != schedule.Resumed || changes[0].Note != "back" || changes[0].By != "key:acme" || changes[2].Note != "holidays" {
		t.Errorf("%+v %v", changes, err)
	}
	// What was past, and not fired yet, is not part of the pause.
	f.exec(t, `UPDATE schedules SET next_fire_at = next_fire_at - interval '1 minute', next_due_at = next_due_at - interval '1 minute', last_fire_at = last_fire_at - interval '1 minute'`)
	f.exec(t, `DELETE FROM schedule_runs`)
	if _, err := p.Pause(ctx, parse(t, "s"), ""); err != nil {
		t.Fatal(err)
	}
	if all := runs(t, p, ctx, "s"); len(all) != 1 || all[0].State != schedule.Succeeded {
		t.Errorf("%+v", all)
	}
}

// A key triggers one run, however often and at whatever time it is used.
func TestTriggerKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	p.create(t, ctx, "s", every(24*time.Hour))
	ids := make(chan string, 8)
	for range cap(ids) {
		go func() {
			r, err := p.Trigger(ctx, parse(t, "s"), schedule.Triggered{Key: "once"})
			if err != nil {
				t.Error(err)
			}
			ids <- r.ID
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first {
			t.Errorf("the key made the runs %s and %s", first, id)
		}
	}
	if _, err := p.Trigger(ctx, parse(t, "s"), schedule.Triggered{Key: "a\x00"}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a key that cannot be stored: %v", err)
	}
	if other, err := p.Trigger(ctx, parse(t, "s"), schedule.Triggered{Key: "other"}); err != nil || other.ID == first {
		t.Errorf("%+v %v", other, err)
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting`); n != 2 || len(runs(t, p, ctx, "s")) != 2 {
		t.Errorf("%d messages for %+v", n, runs(t, p, ctx, "s"))
	}
	f.exec(t, `UPDATE schedule_trigger_keys SET created_at = now() - interval '25 hours'`)
	if r, err := p.Trigger(ctx, parse(t, "s"), schedule.Triggered{Key: "once"}); err != nil || r.ID == first {
		t.Errorf("after a day: %+v %v", r, err)
	}
}

// A schedule ends with its runs; those that are triggered do not count.
func TestRemainingRuns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d, left := every(time.Minute), int64(3)
	d.RemainingRuns, d.CatchUp = &left, schedule.CatchUpAll
	p.create(t, ctx, "s", d)
	p.trigger(t, ctx, "s")
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '630 seconds', next_fire_at = now() - interval '570 seconds', next_due_at = now() - interval '570 seconds'`)
	p.work(t)
	eventually(t, "no runs remain", func() bool { s, err := p.Get(ctx, parse(t, "s")); return err == nil && *s.Remaining == 0 })
	s, err := p.Get(ctx, parse(t, "s"))
	if err != nil || len(s.Next) != 0 || s.Stats.Fired != 4 || len(runs(t, p, ctx, "s")) != 4 {
		t.Errorf("%+v %v %+v", s, err, s.Stats)
	}
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE next_due_at IS NOT NULL`); n != 0 {
		t.Error("it is still due")
	}
	more := int64(2)
	if s := p.update(t, ctx, "s", func(d *schedule.Definition) { d.RemainingRuns = &more }); *s.Remaining != 2 || len(s.Next) != 2 || !s.Next[0].After(s.UpdatedAt) {
		t.Errorf("%+v with %d more fires at %v", s, *s.Remaining, s.Next)
	}
}

// Jitter moves when a run is due, and not its fire time, which tells it from all others.
func TestJitter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d := every(2 * time.Second)
	d.Jitter, d.CatchUp = 1500*time.Millisecond, schedule.CatchUpAll
	made, err := p.Create(ctx, parse(t, "s"), d)
	if err != nil {
		t.Fatal(err)
	}
	p.work(t)
	eventually(t, "three runs", func() bool { return len(runs(t, p, ctx, "s")) >= 3 })
	moved := 0
	for i, r := range runs(t, p, ctx, "s")[:3] {
		if want := made.CreatedAt.Add(time.Duration(i+1) * 2 * time.Second); !r.FireAt.Equal(want) {
			t.Errorf("run %d is of %v, not %v", i, r.FireAt, want)
		}
		by := r.DueAt.Sub(r.FireAt)
		if by < 0 || by > d.Jitter || r.StartedAt.Before(r.DueAt) {
			t.Errorf("run %d is due %v after its fire time, and starts at %v", i, by, r.StartedAt)
		}
		if by > 0 {
			moved++
		}
	}
	if moved == 0 {
		t.Error("no run is moved")
	}
}

// Runs that end because another one takes their place, or their schedule is deleted, are told as well.
func TestCancelledRunEvents(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	f.bind(t, "acme", schedule.RunsTopic)
	p, ctx := f.process(t, g.job()), as(t, "acme")
	p.work(t)
	d := daily("gate")
	d.Overlap = schedule.BufferAll
	p.create(t, ctx, "s", d)
	running, waiting := p.trigger(t, ctx, "s"), p.trigger(t, ctx, "s")
	g.begins(t)
	last, err := p.Trigger(ctx, parse(t, "s"), schedule.Triggered{Overlap: schedule.CancelOther})
	if err != nil {
		t.Fatal(err)
	}
	if g.begins(t).RunID != last.ID {
		t.Error("another run begins")
	}
	p.becomes(t, ctx, "s", running.ID, schedule.Cancelled)
	p.becomes(t, ctx, "s", waiting.ID, schedule.Cancelled)
	if keys, _ := f.events(t, schedule.RunsTopic); !slices.Equal(keys, []string{"acme cancelled.s", "acme cancelled.s"}) {
		t.Errorf("told are %q", keys)
	}
	after := p.trigger(t, ctx, "s")
	if err := p.Delete(ctx, parse(t, "s")); err != nil {
		t.Fatal(err)
	}
	keys, events := f.events(t, schedule.RunsTopic)
	if !slices.Equal(keys, []string{"acme cancelled.s", "acme cancelled.s"}) {
		t.Errorf("told are %q", keys)
	}
	if id := events["acme cancelled.s"].Body["run_id"]; id != last.ID && id != after.ID {
		t.Errorf("told is %v", id)
	}
}

// Each run that ends is told to those that listen, with its state.
func TestRunEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	f.bind(t, "acme", schedule.RunsTopic)
	p, ctx := f.process(t), as(t, "acme")
	p.create(t, ctx, "works", every(24*time.Hour))
	d := every(24 * time.Hour)
	d.Action.Publish.Queue = "none"
	p.create(t, ctx, "fails", d)
	worked, failed := p.trigger(t, ctx, "works"), p.trigger(t, ctx, "fails")
	keys, events := f.events(t, schedule.RunsTopic)
	if want := []string{"acme failed.fails", "acme succeeded.works"}; !slices.Equal(keys, want) {
		t.Fatalf("the events are %q, not %q", keys, want)
	}
	body := events["acme succeeded.works"].Body
	if body["type"] != "run_ended" || body["run_id"] != worked.ID || body["schedule"] != "works" || body["state"] != "succeeded" ||
		body["trigger"] != "manual" || body["message_id"] != worked.MessageID || body["end_time"] == nil || body["error"] != nil {
		t.Errorf("%v", body)
	}
	if body := events["acme failed.fails"].Body; body["run_id"] != failed.ID || body["state"] != "failed" || body["error"] != failed.Error || failed.Error == "" {
		t.Errorf("%v", body)
	}
}

// After the clock of PostgreSQL went back, a new timing fires no time again that an earlier one has fired.
func TestNewTimingAfterTheClockWentBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	for _, paused := range []bool{false, true} {
		name := map[bool]string{false: "fires", true: "paused"}[paused]
		p.create(t, ctx, name, every(time.Minute))
		if paused {
			if _, err := p.Pause(ctx, parse(t, name), ""); err != nil {
				t.Fatal(err)
			}
		}
		// The clock was an hour ahead.
		f.exec(t, `UPDATE schedules SET last_fire_at = created_at + interval '60 minutes', next_fire_at = created_at + interval '61 minutes',
			next_due_at = next_due_at + interval '1 hour' WHERE name = $1`, name)
		last := p.update(t, ctx, name, func(d *schedule.Definition) { d.Description = "the same timing" }).CreatedAt.Add(time.Hour)
		p.update(t, ctx, name, func(d *schedule.Definition) { d.Interval = 20 * time.Minute })
		if n := f.count(t, `SELECT count(*) FROM schedules WHERE name = $1 AND next_fire_at = $2`, name, last.Add(20*time.Minute)); n != 1 {
			t.Errorf("%s: an interval does not go on after the last that was fired, %v", name, last)
		}
		once := last.Add(-time.Minute)
		p.update(t, ctx, name, func(d *schedule.Definition) { d.Interval, d.At = 0, once })
		if n := f.count(t, `SELECT count(*) FROM schedules WHERE name = $1 AND next_fire_at IS NULL AND next_due_at IS NULL`, name); n != 1 {
			t.Errorf("%s: a single time before the last that was fired, %v, fires", name, last)
		}
	}
}
