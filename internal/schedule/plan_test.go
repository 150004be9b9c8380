package schedule_test

import (
	"os"
	"testing"
	"time"

	"plinth/internal/schedule"
)

// However many schedules lie dormant, and however many runs have ended, what fires, runs and settles reads neither table from end to
// end.
func TestHotStatementsUseIndexes(t *testing.T) {
	t.Parallel()
	rows := 20_000
	if os.Getenv("CI") == "true" {
		rows = 1_000_000
	}
	f, g := newFixture(t), newGate()
	f.queue(t, "acme", "q")
	f.exec(t, `INSERT INTO schedules (tenant, name, id, definition, created_at, updated_at, updated_by, next_fire_at, next_due_at, run_max_age, run_max_count)
		SELECT 't' || i % 50, 's' || i, gen_random_uuid(), '{}', now(), now(), '', now() + interval '1 year', now() + interval '1 year', '1 year', 1000
		FROM generate_series(1, $1::int) AS i`, rows)
	f.exec(t, `INSERT INTO schedule_runs (tenant, id, schedule_id, n, trigger, fire_at, due_at, planned, state, version, action, ended_at)
		SELECT tenant, gen_random_uuid(), id, 1, 'schedule', now(), now(), true, 'succeeded', 1, 'publish', now() FROM schedules`)
	f.exec(t, `ANALYZE schedules, schedule_runs`)
	scans := func() int64 {
		t.Helper()
		return f.count(t, `SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('schedules', 'schedule_runs')`)
	}
	inserted := func() int64 {
		t.Helper()
		return f.count(t, `SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'schedule_runs'`)
	}
	eventually(t, "the rows are counted", func() bool { return inserted() >= int64(rows) })
	before, had := scans(), inserted()
	_, entries := f.probes(t)

	// A wake of a worker that finds nothing due is one probe of one index, and reads one entry.
	const wakes = 100
	idle := fixtureOn(t, f.url)
	waking := idle.process(t)
	probed, read := f.probes(t)
	for range wakes {
		if next, err := waking.Wake(t.Context()); err != nil || next < 59*time.Minute {
			t.Fatalf("the next one in %v, %v", next, err)
		}
	}
	idle.db.Close()
	eventually(t, "the probes are counted", func() bool { n, _ := f.probes(t); return n-probed >= wakes })
	if n, entries := f.probes(t); n-probed != wakes || entries-read != wakes || scans() != before {
		t.Errorf("%d wakes are %d probes, which read %d entries, and %d scans", wakes, n-probed, entries-read, scans()-before)
	}

	p, ctx := f.process(t, g.job()), as(t, "acme")
	stop := p.work(t)
	d := every(time.Second)
	d.StartTime = time.Now().Add(-time.Hour)
	p.create(t, ctx, "fires", d)
	j := daily("gate")
	j.Overlap, j.StartTime = schedule.BufferAll, time.Now().AddDate(0, 0, -30)
	p.create(t, ctx, "job", j)
	p.trigger(t, ctx, "job")
	p.trigger(t, ctx, "job")
	for range 2 {
		g.begins(t)
		g.let <- nil
	}
	done := p.backfill(t, ctx, "job", schedule.BackfillRequest{Start: j.StartTime, End: j.StartTime.AddDate(0, 0, 5), MaxConcurrent: 2})
	for range done.Fires {
		g.begins(t)
		g.let <- nil
	}
	p.ends(t, ctx, "job", done.ID)
	published := p.backfill(t, ctx, "fires", schedule.BackfillRequest{Start: d.StartTime, End: d.StartTime.Add(300 * time.Second)})
	p.ends(t, ctx, "fires", published.ID)
	if _, err := p.ListUpcoming(ctx, 10, time.Time{}); err != nil {
		t.Error(err)
	}
	if s, err := p.Get(ctx, parse(t, "job")); err != nil || s.Stats.Fired != 7 {
		t.Errorf("%+v %v", s, err)
	}
	stop()
	made := int64(len(runs(t, p, ctx, "fires")) + len(runs(t, p, ctx, "job")))
	f.db.Close() // What a connection has counted is known once it ends.
	eventually(t, "the runs are counted", func() bool { return inserted() >= had+made })
	if n := scans() - before; n != 0 {
		t.Errorf("the tables were read from end to end %d times", n)
	}
	// A transaction that starts runs of a backfill one after the other passes those that it has started itself.
	if _, n := f.probes(t); n-entries >= int64(rows)+made*made {
		t.Errorf("%d entries of indexes were read", n-entries)
	}
}

// probes returns how often the indexes of schedules and runs were looked into, and how many entries that has read.
func (f *fixture) probes(t *testing.T) (probed, read int64) {
	t.Helper()
	of := func(column string) int64 {
		return f.count(t, `SELECT sum(`+column+`) FROM pg_stat_user_indexes WHERE relname IN ('schedules', 'schedule_runs', 'schedule_changes')`)
	}
	return of("idx_scan"), of("idx_tup_read")
}
