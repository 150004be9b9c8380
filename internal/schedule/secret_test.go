package schedule_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"plinth/internal/errs"
	"plinth/internal/schedule"
	"plinth/internal/seal"
)

const (
	oldKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	newKey = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
)

func (f *fixture) sealing(t *testing.T, keys string) *process {
	t.Helper()
	parsed, err := seal.Parse(keys)
	if err != nil {
		t.Fatal(err)
	}
	return f.configured(t, schedule.Config{Secrets: parsed})
}

// sealAnew does the job that seals what another key has sealed.
func sealAnew(t *testing.T, p *process) {
	t.Helper()
	for _, job := range p.Jobs() {
		if job.Name == "schedule-secrets" {
			if err := job.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The secrets of a request lie nowhere in the database as they are, stay through updates and a change of keys, and are sent.
func TestSecretsAreSealed(t *testing.T) {
	t.Parallel()
	sent := make(chan http.Header, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent <- r.Header }))
	t.Cleanup(server.Close)
	f, ctx := newFixture(t), as(t, "acme")
	sends := func(p *process) {
		t.Helper()
		stop := p.work(t)
		p.becomes(t, ctx, "s", p.trigger(t, ctx, "s").ID, schedule.Succeeded)
		stop()
		if got := <-sent; got.Get("Authorization") != "secret" || !strings.HasPrefix(got.Get("webhook-signature"), "v1,") {
			t.Errorf("sent were %v", got)
		}
	}
	bare := func() int64 {
		t.Helper()
		return f.count(t, `SELECT count(*) FROM (SELECT definition FROM schedules UNION ALL SELECT definition FROM schedule_changes) AS d
			WHERE definition #>> '{action,http,headers,Authorization}' = 'secret' OR definition::text LIKE '%whsec%'`)
	}
	first := f.sealing(t, oldKey)
	first.create(t, ctx, "s", request(server.URL))
	sends(first)
	describe := func(p *process, text string) schedule.Schedule {
		t.Helper()
		return p.update(t, ctx, "s", func(d *schedule.Definition) { d.Description = text })
	}
	if s := describe(first, "first"); s.Version != 2 {
		t.Errorf("%+v", s)
	}
	changes, _, err := first.ListScheduleChanges(ctx, parse(t, "s"), 10, "")
	if err != nil || len(changes) != 2 || strings.Join(changes[0].Fields, " ") != "description" {
		t.Errorf("%+v %v", changes, err)
	}
	if n := bare(); n != 0 {
		t.Errorf("%d rows show a secret", n)
	}
	both := f.sealing(t, newKey+","+oldKey)
	sends(both)
	sealAnew(t, both)
	if n := f.count(t, `SELECT count(*) FROM (SELECT definition FROM schedules UNION ALL SELECT definition FROM schedule_changes WHERE definition IS NOT NULL) AS d,
		(SELECT split_part(definition #>> '{action,http,secret}', ':', 2) AS key FROM schedules) AS now
		WHERE split_part(definition #>> '{action,http,secret}', ':', 2) <> now.key`); n != 0 {
		t.Errorf("%d are sealed with another key", n)
	}
	describe(both, "second")
	after := f.sealing(t, newKey)
	sends(after)

	// A secret whose key is gone fails runs with that reason, and is set anew.
	gone := f.sealing(t, oldKey)
	stop := gone.work(t)
	r := gone.becomes(t, ctx, "s", gone.trigger(t, ctx, "s").ID, schedule.Failed)
	stop()
	if !strings.Contains(r.Error, "set it anew") || len(sent) != 0 {
		t.Errorf("%+v, sent %d", r, len(sent))
	}
	if _, err := gone.Update(ctx, parse(t, "s"), 0, func(d *schedule.Definition) { d.Description = "third" }); !errs.Is(err, errs.FailedPrecondition) ||
		!strings.Contains(err.Error(), "http.") {
		t.Errorf("an update that keeps it: %v", err)
	}
	gone.update(t, ctx, "s", func(d *schedule.Definition) { d.Action = request(server.URL).Action })
	sends(gone)
	if n := bare(); n != 0 {
		t.Errorf("%d rows show a secret", n)
	}
}

// Without a key secrets are kept as they are, and are sealed with the next update once there is one.
func TestSecretsWithoutKey(t *testing.T) {
	t.Parallel()
	f, ctx := newFixture(t), as(t, "acme")
	p := f.process(t)
	p.create(t, ctx, "s", request("http://127.0.0.1:1/"))
	bare := func() int64 {
		t.Helper()
		return f.count(t, `SELECT count(*) FROM schedules WHERE definition::text LIKE '%whsec%'`)
	}
	if bare() != 1 {
		t.Error("the secret is not kept")
	}
	f.sealing(t, newKey).update(t, ctx, "s", func(d *schedule.Definition) { d.Description = "sealed" })
	if bare() != 0 {
		t.Error("the secret is not sealed")
	}
	p.create(t, ctx, "other", request("http://127.0.0.1:1/"))
	sealAnew(t, f.sealing(t, newKey))
	if n := f.count(t, `SELECT count(*) FROM (SELECT definition FROM schedules UNION ALL SELECT definition FROM schedule_changes) AS d
		WHERE definition::text LIKE '%whsec%'`); n != 0 {
		t.Errorf("the job leaves %d as they are", n)
	}
}
