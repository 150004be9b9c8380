package message_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/outbound"
	"plinth/internal/seal"
)

const (
	firstKey  = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	secondKey = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
)

func keys(t *testing.T, text string) seal.Keys {
	t.Helper()
	parsed, err := seal.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// bare returns how many queues show a text in the database.
func (f fixture) bare(t *testing.T, text string) (n int64) {
	t.Helper()
	if err := f.owner.QueryRow(t.Context(), `SELECT count(*) FROM queues q WHERE q::text LIKE '%' || $1 || '%'`, text).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A secret that changes signs beside the one before, for as long as the client says; each is shown once, and lies nowhere as it is.
func TestPushSecretRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	stop := f.worker(t, time.Second)
	url, calls := endpoint(t, ok)
	policy := pushTo(url)
	policy.Push.Headers = map[string]string{"X-Key": "of-the-endpoint"}
	policy.Push.Secret = outbound.NewSecret()
	given := policy.Push.Secret
	q := f.pushes(t, "q", policy)
	next := func(what string, signed ...string) {
		t.Helper()
		for ctx := within(t); ; { // Workers notice changes soon.
			f.publish(t, q.Name, what)
			c := called(t, calls)
			good := len(strings.Fields(c.header.Get("webhook-signature"))) == len(signed) && c.header.Get("X-Key") == "of-the-endpoint"
			for _, s := range signed {
				good = good && c.signedBy(s)
			}
			if good {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: signed %q", what, c.header)
			}
		}
	}
	if q.Push.Secret != given {
		t.Errorf("a secret that was given is shown as %q", q.Push.Secret)
	}
	next("given", given)
	made := f.edit(t, q.Name, func(p *message.Policy) { p.EditPush(func(p *message.Push) { p.Secret = "" }) }).Push
	if !strings.HasPrefix(made.Secret, "whsec_") || made.Secret == given || time.Until(made.PreviousUntil).Round(time.Hour) != 24*time.Hour {
		t.Fatalf("made: %+v", made)
	}
	next("both", made.Secret, given)
	kept := f.edit(t, q.Name, func(p *message.Policy) {
		p.Replace(&message.Push{URL: url, Headers: map[string]string{"X-Key": "[redacted]"}})
	}).Push
	if kept.Secret != "" || kept.PreviousUntil.IsZero() {
		t.Errorf("an update without a secret: %+v", kept)
	}
	next("still both", made.Secret, given)
	third := outbound.NewSecret()
	f.edit(t, q.Name, func(p *message.Policy) { p.EditPush(func(p *message.Push) { p.Secret = third }) })
	next("the last two", third, made.Secret)
	f.edit(t, q.Name, func(p *message.Policy) { p.EditPush(func(p *message.Push) { p.PreviousUntil = time.Time{} }) })
	next("the last", third)
	for _, text := range []string{"whsec", "of-the-endpoint"} {
		if n := f.bare(t, text); n != 0 {
			t.Errorf("%d rows show %s", n, text)
		}
		for _, line := range f.logs.All() {
			if strings.Contains(fmt.Sprint(line.Message, line.ContextMap()), text) {
				t.Errorf("the log has %s: %v", text, line)
			}
		}
	}

	// Keys are replaced: what the old one has sealed is sealed with the new one, which alone opens it then.
	stop()
	f.keys = keys(t, secondKey+","+firstKey)
	f.Service = f.process(t, message.Limits{})
	for _, job := range f.Jobs() {
		if job.Name == "message-secrets" {
			if err := job.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.keys = keys(t, secondKey)
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	f.worker(t, time.Second)
	next("sealed anew", third)
}

// A secret whose key is gone is told, and can be set anew.
func TestPushSecretLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	url, calls := endpoint(t, ok)
	policy := pushTo(url)
	policy.Push.Headers = map[string]string{"X-Key": "of-the-endpoint"}
	q := f.pushes(t, "q", policy)
	f.keys = keys(t, secondKey)
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	f.worker(t, time.Second)
	f.publish(t, q.Name, "x")
	f.becomes(t, q.Name, "it is told", func(q message.Queue) bool {
		return q.Stats.Depth == 1 && strings.Contains(q.PushStatus.LastError, "set it anew")
	})
	if len(calls) != 0 {
		t.Error("it is called without its headers")
	}
	f.edit(t, q.Name, func(p *message.Policy) { p.MaxAttempts = 7 })
	_, err := f.UpdateQueue(within(t), q.Name, func(p *message.Policy) { p.EditPush(func(p *message.Push) { p.Timeout = time.Second }) })
	if !errs.Is(err, errs.FailedPrecondition) || !strings.HasPrefix(err.Error(), "push.") {
		t.Errorf("an update that keeps it: %v", err)
	}
	f.edit(t, q.Name, func(p *message.Policy) {
		p.EditPush(func(p *message.Push) { p.Secret, p.Headers = outbound.NewSecret(), map[string]string{"X-Key": "anew"} })
	})
	if c := called(t, calls); c.header.Get("X-Key") != "anew" || len(strings.Fields(c.header.Get("webhook-signature"))) != 1 {
		t.Errorf("%v", c.header)
	}
}

// What is wrong with a push is told with its field, and nothing is created or changed.
func TestPushRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	for field, push := range map[string]message.Push{
		"push.url: is required":               {},
		"push.url: is not a URL":              {URL: "https:///path"},
		"push.url: begins with neither":       {URL: "ftp://example.com/"},
		"push.url: has a user":                {URL: "https://user:hidden@example.com/"},
		"push.url: 10.0.0.1 is":               {URL: "http://10.0.0.1/"},
		"push.url: 169.254.169.254 is":        {URL: "http://169.254.169.254/latest"},
		"push.url: ::1 is":                    {URL: "http://[::1]/"},
		"push.headers: Webhook-Id is set":     {URL: "https://example.com/", Headers: map[string]string{"Webhook-Id": "x"}},
		"push.headers: the value of X has a":  {URL: "https://example.com/", Headers: map[string]string{"X": "hidden\r\n"}},
		"push.secret: is not whsec_":          {URL: "https://example.com/", Secret: "hidden"},
		"push.timeout: 6s is more than 5s":    {URL: "https://example.com/", Timeout: 6 * time.Second},
		"push.previous_secret_expire_time: i": {URL: "https://example.com/", PreviousUntil: time.Now().Add(800 * time.Hour)},
	} {
		_, err := f.CreateQueue(within(t), name(t, "q"), message.Policy{Push: &push})
		if field == "push.previous_secret_expire_time: i" { // There is none before.
			if err != nil {
				t.Errorf("%s: %v", field, err)
			}
			_, err = f.UpdateQueue(within(t), name(t, "q"), func(p *message.Policy) {
				p.EditPush(func(p *message.Push) { p.Secret, p.PreviousUntil = "", push.PreviousUntil })
			})
		}
		if !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), field) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
