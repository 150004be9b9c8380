package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"plinth/internal/kv/kvtest"
	"plinth/internal/pg/pgtest"
)

const stormSchedules = 200

// Whatever becomes of workers and their clocks, of Redis and of PostgreSQL, each planned time of each schedule has exactly one run or lies in
// exactly one range that was missed, and each run has exactly one message.
func TestEveryTickIsAccountedFor(t *testing.T) {
	t.Parallel()
	rage, freeze := 8*time.Second, 2*time.Second
	if ci() {
		rage, freeze = time.Minute, 17*time.Second // longer than a lease
	}
	database := pgtest.NewServer(t)
	redis, redisURL := newProxy(t, kvtest.New(t, nil).URL)
	redis.open()
	env := with(backends(t, "postgres"), map[string]string{"DATABASE_URL": database.URL(), "REDIS_URL": redisURL})
	server := start(t, "server", env)
	url := "http://" + server.address(t)
	var workers [3]*process
	var clocks [3]*clock
	begin := func(i int) {
		workers[i] = start(t, "worker", env)
		clocks[i] = clockOf(t, workers[i])
		clocks[i].set(t, time.Duration(i-1)*2*time.Second)
	}
	for i := range workers {
		begin(i)
	}
	ready(t, url)
	post(t, url+"/api/v1/queues", map[string]any{"name": "ticks"})
	for i := range stormSchedules {
		post(t, url+"/api/v1/schedules", map[string]any{
			"name": fmt.Sprintf("tick-%d", i), "interval": "1s", "catchUp": []string{"CATCH_UP_ALL", "CATCH_UP_LATEST", "CATCH_UP_NONE"}[i%3],
			"publish": map[string]any{"queue": "ticks", "message": "{{run_id}}"},
		})
	}
	owner := pgtest.Owner(t, database.URL())
	began := time.Now()
	passed := func(part float64) bool { return time.Since(began) > time.Duration(float64(rage)*part) }
	for crashed, away := false, false; !passed(1); <-time.After(rage / 20) {
		if away != (passed(0.3) && !passed(0.6)) {
			away = !away
			redis.opened.Store(!away)
			redis.partition()
		}
		if !crashed && passed(0.5) {
			crashed = true
			crash(t, owner)
		}
		switch i := rand.N(len(workers)); rand.N(4) {
		case 0:
			workers[i].kill()
			begin(i)
		case 1:
			frozen := workers[i]
			frozen.signal(t, syscall.SIGSTOP)
			time.AfterFunc(freeze, func() { _ = frozen.cmd.Process.Signal(syscall.SIGCONT) })
		case 2:
			clocks[i].set(t, time.Duration(rand.N(3)-1)*time.Hour)
		}
	}
	within(t, 3*patience, "the workers catch up", func() bool {
		return number(t, owner, `SELECT count(*) FROM schedules WHERE tenant = 'default' AND next_due_at < now() - interval '1 second'`) == 0
	})
	for _, p := range append(workers[:], server) {
		p.kill()
	}
	accountForTicks(t, owner)
}

// crash has PostgreSQL lose a process, after which it cuts all connections and recovers.
func crash(t *testing.T, owner *pgxpool.Pool) {
	t.Helper()
	if err := syscall.Kill(int(number(t, owner, `SELECT pg_backend_pid()`)), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "PostgreSQL recovers", func() bool { return owner.Ping(t.Context()) == nil })
}

func accountForTicks(t *testing.T, owner *pgxpool.Pool) {
	t.Helper()
	const covered = `
		WITH planned AS (
			SELECT s.id, fire FROM schedules s, generate_series(s.created_at + interval '1 second', greatest(s.last_fire_at,
				(SELECT max(missed_until) FROM schedule_runs r WHERE r.tenant = 'default' AND r.schedule_id = s.id)), interval '1 second') AS fire
			WHERE s.tenant = 'default'
		), covered AS (
			SELECT p.id, p.fire, count(r.id) AS n FROM planned p LEFT JOIN schedule_runs r ON r.tenant = 'default' AND r.schedule_id = p.id AND r.planned
				AND (r.fire_at = p.fire OR r.missed_count > 0 AND p.fire BETWEEN r.fire_at AND r.missed_until)
			GROUP BY p.id, p.fire
		) SELECT count(*) FROM covered WHERE n `
	ticks := number(t, owner, covered+`>= 0`)
	runs := number(t, owner, `SELECT count(*) FROM schedule_runs WHERE tenant = 'default' AND state = 'succeeded'`)
	missed := number(t, owner, `SELECT coalesce(sum(missed_count), 0) FROM schedule_runs WHERE tenant = 'default' AND state = 'missed'`)
	t.Logf("%d planned times: %d runs, %d missed", ticks, runs, missed)
	if ticks < 4*stormSchedules || runs == 0 {
		t.Error("too few to tell anything")
	}
	const messages = `(SELECT id, attributes::json ->> 'run_id' AS run FROM message_waiting UNION SELECT id, attributes ->> 'run_id' FROM broker_messages) AS m`
	for what, query := range map[string]string{
		"planned times have neither a run nor a range":        covered + `= 0`,
		"planned times have more than one":                    covered + `> 1`,
		"runs are of other states or times":                   fmt.Sprintf(`SELECT count(*) + %d - %d FROM schedule_runs WHERE tenant = 'default' AND state NOT IN ('succeeded', 'missed')`, ticks, runs+missed),
		"runs are of a time that had not come":                `SELECT count(*) FROM schedule_runs WHERE tenant = 'default' AND greatest(due_at, missed_until) > ended_at`,
		"schedules wait for longer than until the next time":  `SELECT count(*) FROM schedules WHERE tenant = 'default' AND next_due_at > now() + interval '2 seconds'`,
		"runs have no message, or another than theirs":        `SELECT count(*) FROM schedule_runs r WHERE tenant = 'default' AND state = 'succeeded' AND NOT EXISTS (SELECT FROM ` + messages + ` WHERE m.run = r.id::text AND m.id::text = r.message_id)`,
		"messages are of no run, or the second one of theirs": `SELECT (SELECT count(DISTINCT m.id) FROM ` + messages + ` WHERE m.run IS NOT NULL) - count(*) FROM schedule_runs WHERE tenant = 'default' AND state = 'succeeded'`,
	} {
		if n := number(t, owner, query); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

func number(t *testing.T, owner *pgxpool.Pool, query string) (n int64) {
	t.Helper()
	eventually(t, "an answer to "+query, func() bool { return owner.QueryRow(t.Context(), query).Scan(&n) == nil })
	return n
}

// post makes something over REST.
func post(t *testing.T, url string, body any) {
	t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: patience, Transport: keyed{&http.Transport{}, adminKey}}
	defer client.CloseIdleConnections()
	res, err := client.Post(url, "application/json", bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", url, res.StatusCode, answer)
	}
}
