package schedule_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/schedule"
)

// alert looks for schedules that are not doing well, as several workers at a time would.
func alert(t *testing.T, processes ...*process) {
	t.Helper()
	var all sync.WaitGroup
	for _, p := range processes {
		for _, job := range p.Jobs() {
			if job.Name == "schedule-alerts" {
				all.Go(func() {
					if err := job.Run(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
	all.Wait()
}

// bind makes a queue that gets all events of a topic.
func (f *fixture) bind(t *testing.T, tenant, topic string) {
	t.Helper()
	f.queue(t, tenant, topic)
	f.exec(t, `INSERT INTO queue_bindings (tenant, queue, topic, pattern) VALUES ($1, $2, $2, '#')`, tenant, topic)
}

// told is an event that waits to be sent.
type told struct {
	Tenant, Key string
	Body        map[string]any
}

// events returns the keys of all events of a topic since the last call, sorted, and removes the events.
func (f *fixture) events(t *testing.T, topic string) (keys []string, events map[string]told) {
	t.Helper()
	rows, err := f.owner.Query(context.Background(), `DELETE FROM message_waiting WHERE topic = $1 RETURNING tenant, routing_key, body`, topic)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	events = map[string]told{}
	for rows.Next() {
		var e told
		var body []byte
		if err := rows.Scan(&e.Tenant, &e.Key, &body); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &e.Body); err != nil {
			t.Fatal(err)
		}
		keys, events[e.Tenant+" "+e.Key] = append(keys, e.Tenant+" "+e.Key), e
	}
	slices.Sort(keys)
	return keys, events
}

func (f *fixture) wantEvents(t *testing.T, when string, want ...string) map[string]told {
	t.Helper()
	keys, events := f.events(t, "trouble")
	if !slices.Equal(keys, want) {
		t.Errorf("%s: the events are %q, not %q", when, keys, want)
	}
	return events
}

// A schedule that is late, or has not succeeded for too long, is told of once, and again once it has recovered.
func TestAlerts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, other := f.process(t), f.process(t)
	d := every(24 * time.Hour)
	d.Alert = schedule.Alert{Topic: "trouble", LateAfter: time.Minute, NoSuccessFor: time.Hour}
	for _, tenant := range []string{"acme", "globex"} {
		f.queue(t, tenant, "q")
		f.bind(t, tenant, "trouble")
		p.create(t, as(t, tenant), "late", d)
	}
	ctx := as(t, "acme")
	for _, name := range []string{"barely", "faulty", "fine", "over", "paused", "unsuccessful"} {
		p.create(t, ctx, name, d)
	}
	p.create(t, ctx, "silent", every(24*time.Hour))
	if _, err := p.Pause(ctx, parse(t, "paused"), ""); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `UPDATE schedules SET next_fire_at = now() - interval '61 seconds', next_due_at = now() - interval '61 seconds' WHERE name IN ('late', 'silent')`)
	f.exec(t, `UPDATE schedules SET next_due_at = now() - interval '30 seconds' WHERE name = 'barely'`)
	f.exec(t, `UPDATE schedules SET next_fire_at = now() - interval '2 minutes', next_due_at = now() + interval '1 minute', faults = 5 WHERE name = 'faulty'`)
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '61 minutes' WHERE name IN ('over', 'paused', 'silent', 'unsuccessful')`)
	f.exec(t, `UPDATE schedules SET next_fire_at = now() - interval '1 hour' WHERE name = 'paused'`)
	f.exec(t, `UPDATE schedules SET next_fire_at = NULL, next_due_at = NULL, last_fire_at = created_at, last_success_at = created_at WHERE name = 'over'`)

	alert(t, p, other, p, other)
	events := f.wantEvents(t, "at first", "acme late.faulty", "acme late.late", "acme no_success.unsuccessful", "globex late.late")
	for key, e := range events {
		since, err := time.Parse(time.RFC3339, e.Body["since"].(string))
		now, err2 := time.Parse(time.RFC3339, e.Body["time"].(string))
		if err != nil || err2 != nil || e.Body["tenant"] != e.Tenant || e.Body["type"].(string)+"."+e.Body["schedule"].(string) != e.Key || len(e.Body) != 5 {
			t.Errorf("%s: %v %v %v", key, e.Body, err, err2)
		}
		if age := now.Sub(since); e.Body["type"] == "late" && (age < time.Minute || age > 5*time.Minute) ||
			e.Body["type"] == "no_success" && (age < time.Hour || age > 2*time.Hour) {
			t.Errorf("%s: %v", key, e.Body)
		}
	}
	alert(t, p, other)
	f.wantEvents(t, "once told")

	// A pause takes no time from what may pass without success.
	if _, err := p.Resume(ctx, parse(t, "paused"), ""); err != nil {
		t.Fatal(err)
	}
	alert(t, p)
	f.wantEvents(t, "after a pause")

	// All recover: those that are late fire, and the other one has a run that succeeds.
	f.exec(t, `UPDATE schedules SET next_due_at = now() WHERE name = 'faulty'`)
	p.trigger(t, ctx, "unsuccessful")
	stop := p.work(t)
	eventually(t, "the late ones fire", func() bool {
		return f.count(t, `SELECT count(*) FROM schedules WHERE next_due_at < now() + interval '1 minute'`) == 0
	})
	stop()
	alert(t, p)
	f.wantEvents(t, "once recovered")
	f.exec(t, `UPDATE schedules SET next_due_at = now() - interval '61 seconds' WHERE name = 'late' AND tenant = 'acme'`)
	f.exec(t, `UPDATE schedules SET last_success_at = now() - interval '61 minutes' WHERE name = 'unsuccessful'`)
	alert(t, p, other)
	f.wantEvents(t, "again", "acme late.late", "acme no_success.unsuccessful")
	alert(t, p, other)
	f.wantEvents(t, "again told")
}

// What a tenant's quota of waiting messages refuses is told once there is room, and holds up no other tenant.
func TestAlertRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.process(t)
	d := every(24 * time.Hour)
	d.Alert = schedule.Alert{Topic: "trouble", LateAfter: time.Minute}
	for _, tenant := range []string{"acme", "globex"} {
		f.bind(t, tenant, "trouble")
		p.create(t, as(t, tenant), "late", d)
	}
	f.exec(t, `UPDATE schedules SET next_due_at = now() - interval '61 seconds'`)
	f.exec(t, `INSERT INTO tenant_usage (tenant, resource, n, quota) VALUES ('acme', 'waiting_messages', 10, 10)`)
	alert(t, p)
	f.wantEvents(t, "with a full queue", "globex late.late")
	f.exec(t, `DELETE FROM tenant_usage WHERE tenant = 'acme' AND resource = 'waiting_messages'`)
	other := f.process(t) // It has cached no usage.
	alert(t, other)
	f.wantEvents(t, "with room", "acme late.late")
	alert(t, other)
	f.wantEvents(t, "once told")
}

// A topic is refused when it is set, and not when there is something to tell.
func TestAlertTopic(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.process(t)
	for _, topic := range []string{"", "no topic"} {
		d := every(24 * time.Hour)
		d.Alert = schedule.Alert{Topic: topic, LateAfter: time.Minute}
		if _, err := p.Create(as(t, "acme"), parse(t, "s"), d); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "alert.topic: ") {
			t.Errorf("%q: %v", topic, err)
		}
	}
}
