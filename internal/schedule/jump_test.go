package schedule_test

import (
	"fmt"
	"testing"
	"time"

	"plinth/internal/pg/pgtest"
	"plinth/internal/schedule"
)

// Whatever PostgreSQL's clock does, which alone says what time it is, each planned time has exactly one run or lies in exactly one range:
// it is two seconds wrong now and then, goes forward by an hour, back by an hour and forward again.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	server, clock := pgtest.NewServerWithClock(t)
	f := fixtureOn(t, server.URL())
	f.queue(t, "acme", "q")
	ctx := as(t, "acme")
	processes := []*process{f.process(t), f.process(t), f.process(t)}
	for i := range 12 {
		d := every(time.Second)
		d.CatchUp = []schedule.CatchUp{schedule.CatchUpAll, schedule.CatchUpLatest, schedule.CatchUpNone}[i%3]
		d.CatchUpWindow = time.Minute
		processes[0].create(t, ctx, fmt.Sprintf("s%d", i), d)
	}
	var stops []func()
	for _, p := range processes {
		stops = append(stops, p.work(t))
	}
	fired := func() int64 {
		t.Helper()
		return f.count(t, `SELECT count(*) FROM schedule_runs WHERE state = 'succeeded'`)
	}
	// fire waits until all schedules have moved on to the time that the clock shows.
	fire := func(what string) {
		t.Helper()
		eventually(t, "all are up to date "+what, func() bool {
			return f.count(t, `SELECT count(*) FROM schedules WHERE next_fire_at < now() - interval '1 second'`) == 0
		})
	}
	eventually(t, "all fire", func() bool { return fired() >= 24 })
	for i := range 6 {
		clock.Set(t, time.Duration(i%3-1)*2*time.Second)
		time.Sleep(300 * time.Millisecond)
	}
	clock.Set(t, time.Hour)
	if ahead := f.count(t, `SELECT extract(epoch FROM now())::bigint`) - time.Now().Unix(); ahead < 3590 || ahead > 3610 {
		t.Fatalf("the clock is %d seconds ahead, not an hour", ahead)
	}
	fire("an hour later")
	clock.Set(t, 0)
	var had int64
	eventually(t, "what was on its way has ended, and no fire time that had come before the clock went back fires", func() bool {
		had = fired()
		time.Sleep(1500 * time.Millisecond) // More than their interval: that nothing comes can only be waited for.
		return fired() == had
	})
	clock.Set(t, time.Hour)
	eventually(t, "all fire again", func() bool { return fired() >= had+24 })
	fire("at last")

	const covered = `
		WITH planned AS (
			SELECT s.id, fire FROM schedules s, generate_series(s.created_at + interval '1 second', s.last_fire_at, interval '1 second') AS fire
		), covered AS (
			SELECT p.id, p.fire, count(r.id) AS n FROM planned p LEFT JOIN schedule_runs r ON r.schedule_id = p.id AND r.planned
				AND (r.fire_at = p.fire OR r.missed_count > 0 AND p.fire BETWEEN r.fire_at AND r.missed_until)
			GROUP BY p.id, p.fire
		) SELECT count(*) FROM covered WHERE n `
	for _, stop := range stops {
		stop()
	}
	if n := f.count(t, covered+`>= 0`); n < 12*3600 {
		t.Errorf("only %d planned times", n)
	}
	for what, query := range map[string]string{
		"planned times have neither a run nor a range": covered + `= 0`,
		"planned times have more than one":             covered + `> 1`,
		"runs lie before the first planned time or after the last": `SELECT count(*) FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
			WHERE r.fire_at <= s.created_at OR r.fire_at > s.last_fire_at`,
		"messages are missing, or too many": `SELECT count(*) - (SELECT count(*) FROM schedule_runs WHERE state = 'succeeded') FROM message_waiting`,
		"other states":                      `SELECT count(*) FROM schedule_runs WHERE state NOT IN ('succeeded', 'missed')`,
	} {
		if n := f.count(t, query); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}
