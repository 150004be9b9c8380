package schedule_test

import (
	"testing"
	"time"

	"plinth/internal/schedule"
)

// Next fire times that were computed by other rules of their time zone are computed anew when a worker starts; what has come by
// the old rules fires, and paused schedules stay so.
func TestZoneRulesChange(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d := berlin()
	for _, name := range []string{"wrong", "due", "paused", "behind", "right"} {
		p.create(t, ctx, name, d)
	}
	p.create(t, ctx, "utc", every(time.Hour))
	if _, err := p.Pause(ctx, parse(t, "paused"), ""); err != nil {
		t.Fatal(err)
	}
	before := map[string]time.Time{}
	for _, name := range []string{"wrong", "right", "utc"} {
		s, err := p.Get(ctx, parse(t, name))
		if err != nil {
			t.Fatal(err)
		}
		before[name] = s.Next[0]
	}
	// As a worker would have written them whose rules have the clocks of Berlin an hour behind.
	f.exec(t, `UPDATE schedules SET zone_version = 'other', next_fire_at = next_fire_at + interval '1 hour',
		next_due_at = CASE WHEN paused_at IS NULL THEN next_fire_at + interval '1 hour' END WHERE name IN ('wrong', 'paused', 'behind')`)
	f.exec(t, `UPDATE schedules SET zone_version = 'other', next_fire_at = now() - interval '1 second', next_due_at = now() - interval '1 second' WHERE name = 'due'`)
	// By the rules here, a fire time of this one has passed already.
	f.exec(t, `UPDATE schedules SET updated_at = now() - interval '3 days', created_at = now() - interval '3 days' WHERE name = 'behind'`)
	p.work(t)
	eventually(t, "the rules are followed", func() bool { return f.count(t, `SELECT count(*) FROM schedules WHERE zone_version = 'other'`) == 0 })
	for name, want := range before {
		if s, err := p.Get(ctx, parse(t, name)); err != nil || !s.Next[0].Equal(want) {
			t.Errorf("%s: %+v %v, not %v", name, s.Next, err, want)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE name = 'paused' AND next_due_at IS NULL AND next_fire_at IS NOT NULL`); n != 1 {
		t.Error("the paused schedule is due")
	}
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE time_zone = '' AND zone_version <> ''`); n != 0 {
		t.Error("UTC has a version")
	}
	for name, trigger := range map[string]schedule.Trigger{"due": schedule.FromSchedule, "behind": schedule.FromCatchUp} {
		eventually(t, name+" has its run", func() bool { return len(runs(t, p, ctx, name)) > 0 })
		all := runs(t, p, ctx, name)
		if last := all[len(all)-1]; last.Trigger != trigger || last.State != schedule.Succeeded {
			t.Errorf("%s: %+v", name, all)
		}
	}
}
