package schedule_test

import (
	"slices"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/schedule"
)

// sweep does the job that removes what has been kept long enough.
func sweep(t *testing.T, p *process) {
	t.Helper()
	for _, job := range p.Jobs() {
		if job.Name == "schedule-sweep" {
			if err := job.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Runs are removed by their number and their age, as each schedule says; those that are not over stay.
func TestRunRetention(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	f.queue(t, "acme", "q")
	p, ctx := f.process(t, g.job()), as(t, "acme")
	few, old, gone := every(24*time.Hour), every(24*time.Hour), every(24*time.Hour)
	few.RunRetention.MaxCount, old.RunRetention.MaxAge = 3, time.Hour
	p.create(t, ctx, "few", few)
	p.create(t, ctx, "old", old)
	p.create(t, ctx, "gone", gone)
	d := daily("gate")
	d.RunRetention, d.Overlap = schedule.RunRetention{MaxCount: 1, MaxAge: time.Hour}, schedule.Allow
	p.create(t, ctx, "under-way", d)
	kept := map[string][]string{}
	for i := range 6 {
		kept["few"] = append(kept["few"], p.trigger(t, ctx, "few").ID)
		kept["old"] = append(kept["old"], p.trigger(t, ctx, "old").ID)
		kept["under-way"] = append(kept["under-way"], p.trigger(t, ctx, "under-way").ID)
		p.trigger(t, ctx, "gone")
		if i == 2 {
			f.exec(t, `UPDATE schedule_runs SET ended_at = ended_at - interval '61 minutes' WHERE ended_at IS NOT NULL`)
			f.exec(t, `UPDATE schedule_runs SET fire_at = fire_at - interval '61 minutes', due_at = due_at - interval '61 minutes'`)
		}
	}
	kept["few"], kept["old"] = kept["few"][3:], kept["old"][3:]
	if err := p.Delete(ctx, parse(t, "gone")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		sweep(t, p)
		for name, want := range kept {
			var got []string
			for _, r := range runs(t, p, ctx, name) {
				got = append(got, r.ID)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %d runs are kept, not %d", name, len(got), len(want))
			}
		}
		if n := f.count(t, `SELECT count(*) FROM schedule_runs`); n != 12 {
			t.Errorf("%d runs are kept in all", n)
		}
	}
}

// What has ended badly can be tried again by hand; nothing else can.
func TestRetryRun(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	p, ctx := f.process(t, g.job()), as(t, "acme")
	p.work(t)
	p.create(t, ctx, "s", daily("gate"))
	running := p.trigger(t, ctx, "s")
	g.begins(t)
	skipped := p.trigger(t, ctx, "s")
	if skipped.State != schedule.Skipped {
		t.Fatalf("%+v", skipped)
	}
	refused := func(what, id string, kind errs.Kind) {
		t.Helper()
		if _, err := p.RetryRun(ctx, parse(t, "s"), id); !errs.Is(err, kind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("one that runs", running.ID, errs.FailedPrecondition)
	refused("none", "0190a0a0-0000-7000-8000-000000000000", errs.NotFound)
	refused("no id", "nonsense", errs.InvalidArgument)
	g.let <- nil
	p.becomes(t, ctx, "s", running.ID, schedule.Succeeded)
	refused("one that succeeded", running.ID, errs.FailedPrecondition)
	if r, err := p.RetryRun(ctx, parse(t, "s"), skipped.ID); err != nil || r.State == schedule.Skipped || r.SkipReason != "" {
		t.Errorf("%+v %v", r, err)
	}
	if a := g.begins(t); a.RunID != skipped.ID || a.Number != 1 {
		t.Errorf("%+v", a)
	}
	g.let <- nil
	p.becomes(t, ctx, "s", skipped.ID, schedule.Succeeded)
	f.exec(t, `UPDATE schedule_runs SET state = 'failed' WHERE id = $1::text::uuid`, skipped.ID)
	f.exec(t, `UPDATE schedule_changes SET definition = NULL`)
	refused("one whose definition is gone", skipped.ID, errs.FailedPrecondition)
	f.exec(t, `UPDATE schedule_runs SET state = 'missed', missed_count = 3 WHERE id = $1::text::uuid`, skipped.ID)
	refused("a range", skipped.ID, errs.FailedPrecondition)
}
