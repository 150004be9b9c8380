package schedule_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"plinth/internal/schedule"
)

// elsewhere is a process that changes schedules, and two workers that do not.
func elsewhere(t *testing.T) (f *fixture, p *process, g gate, ctx context.Context) {
	t.Helper()
	f, g = newFixture(t), newGate()
	f.queue(t, "acme", "q")
	p = f.process(t, g.job())
	for range 2 {
		f.process(t, g.job()).work(t)
	}
	return f, p, g, as(t, "acme")
}

// What is changed through one process is in effect at the others within a second: most times of each kind, since the machine of a test
// may be busy. Without notifications it would take three.
func TestChangesAreInEffectElsewhereWithinASecond(t *testing.T) {
	t.Parallel()
	f, p, g, ctx := elsewhere(t)
	fires := func(name string) func() {
		return func() {
			eventually(t, name+" fires", func() bool {
				return f.count(t, `SELECT count(*) FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
					WHERE s.name = $1 AND r.state = 'succeeded'`, name) > 0
			})
		}
	}
	took := map[string][]time.Duration{}
	measure := func(what string, do func() error, effect func()) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		begin := time.Now()
		effect()
		took[what] = append(took[what], time.Since(begin))
	}
	for i := range 5 {
		once, job := fmt.Sprintf("once-%d", i), fmt.Sprintf("job-%d", i)
		now := every(0)
		now.At = time.Now()
		measure("create", func() error { _, err := p.Create(ctx, parse(t, once), now); return err }, fires(once))
		p.create(t, ctx, "updated-"+once, every(24*time.Hour))
		measure("update", func() error {
			_, err := p.Update(ctx, parse(t, "updated-"+once), 0, func(d *schedule.Definition) { d.Interval, d.At = 0, time.Now() })
			return err
		}, fires("updated-"+once))

		p.create(t, ctx, job, daily("gate"))
		begins := func() { g.begins(t) }
		measure("trigger", func() error { _, err := p.Trigger(ctx, parse(t, job), schedule.Triggered{}); return err }, begins)
		measure("delete", func() error { return p.Delete(ctx, parse(t, job)) }, func() {
			eventually(t, "no process is at a run", func() bool { return g.over() == 2*i+1 })
		})
		p.create(t, ctx, job, daily("gate"))
		end := time.Now().Add(-time.Minute)
		measure("backfill", func() error {
			_, err := p.Backfill(ctx, parse(t, job), schedule.BackfillRequest{Start: end.Add(-24 * time.Hour), End: end})
			return err
		}, begins)
		g.let <- nil
		eventually(t, "the job ends", func() bool { return g.over() == 2*i+2 })

		ticks := "ticks-" + once
		p.create(t, ctx, ticks, every(time.Second))
		if _, err := p.Pause(ctx, parse(t, ticks), ""); err != nil {
			t.Fatal(err)
		}
		f.exec(t, `UPDATE schedules SET next_fire_at = now() + interval '100 milliseconds' WHERE name = $1`, ticks)
		measure("resume", func() error { _, err := p.Resume(ctx, parse(t, ticks), ""); return err }, fires(ticks))
		paused, err := p.Pause(ctx, parse(t, ticks), "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { // A pause holds from its commit on, whoever fires.
			if n := f.count(t, `SELECT count(*) FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
				WHERE s.name = $1 AND r.fire_at > $2`, ticks, paused.Pause.At); n != 0 {
				t.Errorf("%d runs of fire times after the pause", n)
			}
		}()
	}
	for what, all := range took {
		slices.Sort(all)
		if t.Logf("%s: %v", what, all); all[len(all)/2] > time.Second {
			t.Errorf("%s: in effect elsewhere after %v", what, all)
		}
	}
}

// A change whose notification is lost is in effect within five seconds: a row of each kind is written here without one.
func TestChangesAreInEffectElsewhereWithoutNotification(t *testing.T) {
	t.Parallel()
	f, p, g, ctx := elsewhere(t)
	p.create(t, ctx, "s", daily("gate"))
	p.create(t, ctx, "ticks", every(24*time.Hour))
	r := p.trigger(t, ctx, "s")
	g.begins(t)
	begin := time.Now()
	f.exec(t, `UPDATE schedules SET next_fire_at = now(), next_due_at = now() WHERE name = 'ticks'`)
	f.exec(t, `UPDATE schedule_runs SET cancelled = true WHERE id = $1::text::uuid`, r.ID)
	eventually(t, "it fires", func() bool { return len(runs(t, p, ctx, "ticks")) == 1 })
	fired := time.Since(begin)
	p.becomes(t, ctx, "s", r.ID, schedule.Cancelled)
	t.Logf("fired after %v, cancelled after %v", fired, time.Since(begin))
	if most := 10 * time.Second; fired > most || time.Since(begin) > most { // twice as long as it takes, for a busy machine
		t.Errorf("fired after %v, cancelled after %v", fired, time.Since(begin))
	}
}
