package schedule_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/schedule"
)

// A tenant has no more schedules, and no more runs a day, than it may; other tenants do not notice.
func TestQuotas(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx, other := f.configured(t, schedule.Config{Limits: schedule.Limits{Schedules: 2, Runs: 3}}), as(t, "acme"), as(t, "globex")
	d := every(time.Second)
	d.CatchUp = schedule.CatchUpAll
	for _, tenant := range []string{"acme", "globex"} {
		f.queue(t, tenant, "q")
		p.create(t, as(t, tenant), "s", d)
	}
	p.create(t, ctx, "other", every(24*time.Hour))
	if _, err := p.Create(ctx, parse(t, "third"), every(time.Hour)); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("one schedule too many: %v", err)
	}
	for range 3 {
		p.trigger(t, ctx, "other")
	}
	if _, err := p.Trigger(ctx, parse(t, "other"), schedule.Triggered{}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("one run too many: %v", err)
	}
	p.work(t)
	eventually(t, "both fire", func() bool { return len(runs(t, p, ctx, "s")) > 0 && len(runs(t, p, other, "s")) > 0 })
	if r := runs(t, p, ctx, "s")[0]; r.State != schedule.Skipped || r.SkipReason != "quota" {
		t.Errorf("%+v", r)
	}
	if r := runs(t, p, other, "s")[0]; r.State != schedule.Succeeded {
		t.Errorf("%+v", r)
	}
	if err := p.Delete(ctx, parse(t, "other")); err != nil {
		t.Fatal(err)
	}
	p.create(t, ctx, "third", every(time.Hour))
}

// The runs of a tenant that may publish nothing fail after as many attempts as they have, and are told of. Those of other tenants go on.
func TestQuotaOfDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.process(t)
	d := every(24 * time.Hour)
	d.Retry = schedule.Retry{MaxAttempts: 2, MinBackoff: time.Second, MaxBackoff: time.Second}
	for _, tenant := range []string{"acme", "globex"} {
		f.queue(t, tenant, "q")
		f.bind(t, tenant, schedule.RunsTopic)
		p.create(t, as(t, tenant), "s", d)
	}
	f.exec(t, `INSERT INTO tenant_usage (tenant, resource, n, quota) VALUES ('acme', 'dead_letters', 10, 10)`)
	for _, tenant := range []string{"acme", "globex"} {
		p.trigger(t, as(t, tenant), "s")
	}
	p.work(t)
	for tenant, want := range map[string]schedule.State{"acme": schedule.Failed, "globex": schedule.Succeeded} {
		ctx := as(t, tenant)
		eventually(t, "the run ends: "+tenant, func() bool { return runs(t, p, ctx, "s")[0].State == want })
		r := runs(t, p, ctx, "s")[0]
		if want == schedule.Failed && (r.Attempt != 2 || !strings.Contains(r.Error, "dead_letters")) {
			t.Errorf("%+v", r)
		}
	}
	keys, _ := f.events(t, schedule.RunsTopic)
	if want := []string{"acme failed.s", "globex succeeded.s"}; !slices.Equal(keys, want) {
		t.Errorf("the events are %q, not %q", keys, want)
	}
}

// What is left of a tenant's runs of the day is used by the fire times that come first; the rest are skipped.
func TestQuotaTakesWhatFits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.configured(t, schedule.Config{Limits: schedule.Limits{Runs: 7}}), as(t, "acme")
	f.queue(t, "acme", "q")
	d := every(time.Minute)
	d.CatchUp = schedule.CatchUpAll
	for _, name := range []string{"a", "b"} {
		p.create(t, ctx, name, d)
	}
	// With CANCEL_OTHER only the last one begins, so it takes one of them.
	d.Overlap = schedule.CancelOther
	p.create(t, ctx, "c", d)
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '330 seconds', next_fire_at = now() - interval '270 seconds',
		next_due_at = now() - interval '270 seconds' + CASE name WHEN 'a' THEN interval '1 second' WHEN 'b' THEN interval '2 seconds' ELSE interval '0' END`)
	p.work(t)
	eventually(t, "all are caught up", func() bool { return f.count(t, `SELECT count(*) FROM schedule_runs`) == 15 })
	for name, want := range map[string][]schedule.State{
		"c": {schedule.Cancelled, schedule.Cancelled, schedule.Cancelled, schedule.Cancelled, schedule.Succeeded},
		"a": {schedule.Succeeded, schedule.Succeeded, schedule.Succeeded, schedule.Succeeded, schedule.Succeeded},
		"b": {schedule.Succeeded, schedule.Skipped, schedule.Skipped, schedule.Skipped, schedule.Skipped},
	} {
		for i, r := range runs(t, p, ctx, name) {
			if r.State != want[i] || (r.SkipReason == "quota") != (r.State == schedule.Skipped) {
				t.Errorf("%s: run %d is %s (%s), not %s", name, i, r.State, r.SkipReason, want[i])
			}
		}
	}
	if n := f.count(t, `SELECT sum(n) FROM schedule_run_counts`); n != 7 || f.count(t, `SELECT count(*) FROM message_waiting`) != 7 {
		t.Errorf("%d runs are counted", n)
	}
}
