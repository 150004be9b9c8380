package schedule_test

import (
	"testing"
	"time"

	"plinth/internal/schedule"
)

// A schedule has one run for each fire time, and each run one message.
func TestFires(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	p.work(t)
	d := every(time.Second)
	d.CatchUp = schedule.CatchUpAll // A busy machine comes late now and then, and is to leave out none for that.
	made, err := p.Create(ctx, parse(t, "each-second"), d)
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Next) != 5 || made.Next[0] != made.CreatedAt.Add(time.Second) {
		t.Errorf("it was made at %v and fires at %v", made.CreatedAt, made.Next)
	}
	eventually(t, "three runs", func() bool { return len(runs(t, p, ctx, "each-second")) >= 3 })
	for i, r := range runs(t, p, ctx, "each-second") {
		want, trigger := made.CreatedAt.Add(time.Duration(i+1)*time.Second), schedule.FromSchedule
		if r.StartedAt.Sub(r.DueAt) > 10*time.Second {
			trigger = schedule.FromCatchUp
		}
		if !r.FireAt.Equal(want) || r.State != schedule.Succeeded || r.Trigger != trigger || r.MessageID == "" || r.Attempt != 1 {
			t.Errorf("run %d is %+v; its fire time is %v", i, r, want)
		}
		if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE tenant = 'acme' AND id = $1::text::uuid AND convert_from(body, 'UTF8') = $2
			AND attributes ->> 'schedule' = 'each-second'`, r.MessageID, r.ID); n != 1 {
			t.Errorf("run %d has %d messages", i, n)
		}
	}
}

// What a schedule missed is one run of a range, and what it catches up is as its policy says.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	policies := map[string]schedule.CatchUp{"none": schedule.CatchUpNone, "latest": schedule.CatchUpLatest, "all": schedule.CatchUpAll}
	for name, policy := range policies {
		d := every(time.Minute)
		d.CatchUp = policy
		if _, err := p.Create(ctx, parse(t, name), d); err != nil {
			t.Fatal(err)
		}
	}
	// An hour without a worker, whose last fire time is 30 s ago.
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '3630 seconds', next_fire_at = now() - interval '3570 seconds',
		next_due_at = now() - interval '3570 seconds'`)
	p.work(t)
	for name, want := range map[string]struct {
		runs, missed int64
		trigger      schedule.Trigger
	}{"none": {0, 60, ""}, "latest": {1, 59, schedule.FromCatchUp}, "all": {60, 0, schedule.FromCatchUp}} {
		eventually(t, name+" is caught up", func() bool {
			s, err := p.Get(ctx, parse(t, name))
			return err == nil && s.Stats.Fired == want.runs && s.Stats.Missed == want.missed && s.Next[0].After(time.Now().Add(-time.Second))
		})
		var ranges, fired int64
		for _, r := range runs(t, p, ctx, name) {
			if r.State == schedule.Missed {
				ranges++
				if r.MissedCount != want.missed || r.MissedUntil.Sub(r.FireAt) != time.Duration(want.missed-1)*time.Minute {
					t.Errorf("%s: missed are %d from %v to %v", name, r.MissedCount, r.FireAt, r.MissedUntil)
				}
				continue
			}
			if fired++; r.Trigger != want.trigger || r.State != schedule.Succeeded {
				t.Errorf("%s: run %+v", name, r)
			}
		}
		if fired != want.runs || ranges != min(want.missed, 1) {
			t.Errorf("%s: %d runs, %d ranges", name, fired, ranges)
		}
	}
}

// A schedule that cannot be fired holds up no other, and says why.
func TestPoison(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	for _, name := range []string{"bad-timing", "bad-run", "good"} {
		if _, err := p.Create(ctx, parse(t, name), every(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	f.exec(t, `UPDATE schedules SET definition = '{"cron": "no", "action": {}}' WHERE name = 'bad-timing'`)
	// Its fire time has a run already, which nothing of ours does.
	f.exec(t, `INSERT INTO schedule_runs (tenant, id, schedule_id, n, trigger, fire_at, due_at, planned, state, version, action)
		SELECT tenant, gen_random_uuid(), id, 1, 'schedule', next_fire_at, next_due_at, true, 'failed', 1, 'publish' FROM schedules WHERE name = 'bad-run'`)
	p.work(t)
	eventually(t, "the good one fires", func() bool { return len(runs(t, p, ctx, "good")) >= 3 })
	for _, name := range []string{"bad-timing", "bad-run"} {
		if s, err := p.Get(ctx, parse(t, name)); err != nil || s.Error == "" || s.Stats.Fired != 0 {
			t.Errorf("%s: %+v %v", name, s, err)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting`); n != int64(len(runs(t, p, ctx, "good"))) {
		t.Errorf("%d messages", n)
	}
}

// What cannot be read at all, such as the definition of a release to come, holds up no other schedule and no other run.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	f.queue(t, "acme", "q")
	p, ctx := f.process(t, g.job()), as(t, "acme")
	for _, name := range []string{"bad", "good"} {
		p.create(t, ctx, name, every(time.Second))
		p.create(t, ctx, name+"-job", daily("gate"))
	}
	bad, good := p.trigger(t, ctx, "bad-job"), p.trigger(t, ctx, "good-job")
	f.exec(t, `UPDATE schedules SET definition = '{"interval": "an hour"}' WHERE name = 'bad'`)
	f.exec(t, `UPDATE schedule_changes SET definition = '{"interval": "an hour"}' WHERE schedule = 'bad-job'`)
	p.work(t)
	eventually(t, "the good one fires", func() bool { return len(runs(t, p, ctx, "good")) >= 2 })
	if a := g.begins(t); a.RunID != good.ID {
		t.Errorf("%+v begins", a)
	}
	g.let <- nil
	p.becomes(t, ctx, "good-job", good.ID, schedule.Succeeded)
	if r := p.becomes(t, ctx, "bad-job", bad.ID, schedule.Failed); r.Error == "" {
		t.Errorf("%+v", r)
	}
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE name = 'bad' AND faults > 0 AND fault <> '' AND next_due_at > now() - interval '1 second'`); n != 1 {
		t.Error("the bad one is not left alone")
	}
}

// However much one tenant has due, another one's schedule is in the next batch.
func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.process(t)
	for _, tenant := range []string{"acme", "globex"} {
		f.queue(t, tenant, "q")
		p.create(t, as(t, tenant), "s", every(time.Hour))
	}
	f.exec(t, `INSERT INTO schedules (tenant, name, id, definition, created_at, updated_at, updated_by, next_fire_at, next_due_at, run_max_age, run_max_count)
		SELECT tenant, name || i, gen_random_uuid(), definition, created_at, updated_at, '', next_fire_at, next_due_at, run_max_age, run_max_count
		FROM schedules, generate_series(1, 999) AS i WHERE tenant = 'acme'`)
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '61 minutes', next_fire_at = now() - interval '1 minute',
		next_due_at = now() - CASE tenant WHEN 'acme' THEN interval '1 minute' ELSE interval '1 second' END`)
	if _, err := p.Wake(t.Context()); err != nil {
		t.Fatal(err)
	}
	acme, globex := len(runs(t, p, as(t, "acme"), "s")), len(runs(t, p, as(t, "globex"), "s"))
	if all := f.count(t, `SELECT count(*) FROM schedule_runs WHERE tenant = 'acme'`); globex != 1 || all != 250 {
		t.Errorf("%d runs of one tenant (%d of s), %d of the other", all, acme, globex)
	}
}

// A worker that starts after a fire time runs it, on time if it is not long past, and once.
func TestRestartOverADueTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	stop := p.work(t)
	d := every(0)
	d.At = time.Now().Add(200 * time.Millisecond)
	p.create(t, ctx, "s", d)
	stop()
	time.Sleep(time.Until(d.At) + 100*time.Millisecond)
	before := len(runs(t, p, ctx, "s")) // The first worker may have come to it.
	for range 2 {
		f.process(t).work(t)
	}
	eventually(t, "it has run", func() bool { return len(runs(t, p, ctx, "s")) > 0 })
	all := runs(t, p, ctx, "s")
	if len(all) != 1 || all[0].State != schedule.Succeeded || all[0].Trigger != schedule.FromSchedule || !all[0].FireAt.Equal(d.At.Truncate(time.Microsecond)) {
		t.Errorf("%d before, then %+v", before, all)
	}
}
