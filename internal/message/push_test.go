package message_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/message"
)

// pushed is a call that an endpoint got.
type pushed struct {
	header http.Header
	body   string
}

// endpoint answers calls with answer, and tells of each before.
func endpoint(t *testing.T, answer http.HandlerFunc) (url string, calls chan pushed) {
	t.Helper()
	calls = make(chan pushed, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case calls <- pushed{r.Header, string(body)}:
		case <-r.Context().Done(): // Far too many calls came.
		}
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/hook", calls
}

func status(code int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

func ok(http.ResponseWriter, *http.Request) {}

// pushes creates a queue with a push.
func (f fixture) pushes(t *testing.T, s string, policy message.Policy) message.Queue {
	t.Helper()
	q, err := f.CreateQueue(within(t), name(t, s), policy)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// pushTo is a policy of a push with a short back-off.
func pushTo(url string) message.Policy {
	return message.Policy{MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, MaxAttempts: 3, Push: &message.Push{URL: url}}
}

func (f fixture) edit(t *testing.T, q message.QueueName, change func(*message.Policy)) message.Queue {
	t.Helper()
	changed, err := f.UpdateQueue(within(t), q, change)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func called(t *testing.T, calls <-chan pushed) pushed {
	t.Helper()
	select {
	case c := <-calls:
		return c
	case <-within(t).Done():
		t.Fatal("no call comes")
		return pushed{}
	}
}

// signedBy reports whether a call is signed by a secret.
func (p pushed) signedBy(secret string) bool {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", p.header.Get("webhook-id"), p.header.Get("webhook-timestamp"), p.body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return strings.Contains(" "+p.header.Get("webhook-signature")+" ", " "+want+" ")
}

// becomes polls until a queue is as wanted.
func (f fixture) becomes(t *testing.T, q message.QueueName, what string, ok func(message.Queue) bool) message.Queue {
	t.Helper()
	var is message.Queue
	for ctx := within(t); ctx.Err() == nil; <-time.After(20 * time.Millisecond) {
		var err error
		if is, err = f.GetQueue(auth.With(t.Context(), auth.Anonymous()), q); err != nil {
			t.Fatal(err)
		}
		if ok(is) {
			return is
		}
	}
	t.Fatalf("it does not happen: %s; %+v %+v", what, is.Stats, is.PushStatus)
	return is
}

func isEmpty(q message.Queue) bool { return q.Stats.Depth+q.Stats.Waiting == 0 }

// A message is the body of a POST with the headers of CloudEvents and Standard Webhooks, and is gone once it was taken.
func TestPush(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	url, calls := endpoint(t, ok)
	policy := pushTo(url)
	policy.Push.Headers = map[string]string{"Authorization": "Bearer of-the-endpoint"}
	q := f.pushes(t, "orders", policy)
	if q.Push == nil || !strings.HasPrefix(q.Push.Secret, "whsec_") || q.Push.Headers["Authorization"] != "[redacted]" ||
		q.Push.MaxOutstanding != 16 || q.Push.Timeout != 5*time.Second {
		t.Fatalf("created: %+v", q.Push)
	}
	receipt, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q.Name), Body: []byte(`{"n": 1}`), Attributes: map[string]string{
		"type": "order.created", "region": "Zürich 100%", "not_allowed": "x", "id": "forged", "specversion": "9", "data": "x",
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := called(t, calls)
	for name, want := range map[string]string{
		"ce-id": receipt.ID, "ce-specversion": "1.0", "ce-type": "order.created", "ce-source": "/queues/orders", "ce-region": "Z%C3%BCrich%20100%25",
		"content-type": "application/json", "webhook-id": receipt.ID, "idempotency-key": receipt.ID, "authorization": "Bearer of-the-endpoint",
		"ce-not_allowed": "", "ce-data": "",
	} {
		if c.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, c.header.Get(name), want)
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, c.header.Get("ce-time")); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("ce-time is %q", c.header.Get("ce-time"))
	}
	if c.body != `{"n": 1}` || !c.signedBy(q.Push.Secret) {
		t.Errorf("%q, signed %q", c.body, c.header.Get("webhook-signature"))
	}
	is := f.becomes(t, q.Name, "it is acknowledged, and told", func(q message.Queue) bool {
		return isEmpty(q) && q.PushStatus != nil && !q.PushStatus.LastSuccessAt.IsZero() && q.PushStatus.Outstanding == 0
	})
	if is.Push.Secret != "" || is.Push.Headers["Authorization"] != "[redacted]" || is.PushStatus.Breaker != "closed" || is.PushStatus.Latency <= 0 {
		t.Errorf("it reads as %+v, %+v", is.Push, is.PushStatus)
	}
}

// The type of the content is what the message says, then what the headers say, then what the payload is.
func TestPushContentType(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	url, calls := endpoint(t, ok)
	plain := f.pushes(t, "plain", pushTo(url))
	policy := pushTo(url)
	policy.Push.Headers = map[string]string{"Content-Type": "application/x-of-the-queue"}
	set := f.pushes(t, "set", policy)
	for _, test := range []struct {
		queue      message.QueueName
		body, says string
		want       string
	}{
		{plain.Name, "text", "", "text/plain; charset=utf-8"}, {plain.Name, "\xff", "", "application/octet-stream"}, {plain.Name, "[1]", "", "application/json"},
		{plain.Name, "x", "text/csv", "text/csv"}, {plain.Name, "x", "a\r\nEvil: b", "text/plain; charset=utf-8"},
		{set.Name, "x", "", "application/x-of-the-queue"}, {set.Name, "x", "text/csv", "text/csv"},
	} {
		p := message.Publication{To: message.ToQueue(test.queue), Body: []byte(test.body)}
		if test.says != "" {
			p.Attributes = map[string]string{"datacontenttype": test.says}
		}
		if _, err := f.Publish(within(t), p); err != nil {
			t.Fatal(err)
		}
		if is := called(t, calls).header.Get("Content-Type"); is != test.want {
			t.Errorf("%+v: %q", test, is)
		}
	}
}

// 400, 404, 410 and 422 make a dead letter at once, unless the queue says otherwise; all else that is no success is a failed attempt.
func TestPushOutcomes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	for _, test := range []struct {
		code  int
		retry bool
		want  int64
	}{{400, false, 1}, {404, false, 1}, {410, false, 1}, {422, false, 1}, {422, true, 3}, {401, false, 3}, {500, false, 3}, {307, false, 3}, {204, false, 0}} {
		t.Run(fmt.Sprint(test.code, test.retry), func(t *testing.T) {
			t.Parallel()
			url, calls := endpoint(t, status(test.code, "Location", "http://127.0.0.1:1/"))
			policy := pushTo(url)
			policy.Push.RetryRejected = test.retry
			q := f.pushes(t, fmt.Sprintf("q%d%v", test.code, test.retry), policy)
			f.publish(t, q.Name, "x")
			if test.want == 0 {
				called(t, calls)
				f.becomes(t, q.Name, "it is acknowledged", isEmpty)
				return
			}
			f.becomes(t, q.Name, "it is a dead letter", func(q message.Queue) bool { return q.Stats.DeadLetters == 1 })
			if n := int64(len(calls)); n != test.want {
				t.Errorf("%d calls, want %d", n, test.want)
			}
			dead, _, err := f.ListDeadLetters(within(t), q.Name, message.Filter{}, 10, "")
			if err != nil || len(dead) != 1 || !strings.HasPrefix(dead[0].Reason, fmt.Sprintf("the answer was %d", test.code)) || int64(dead[0].Attempts) != test.want {
				t.Errorf("%+v %v", dead, err)
			}
		})
	}
}

// 429 and 503 wait for their Retry-After, with the whole queue, and are no attempts: more of them than the queue's attempts kill nothing.
func TestPushRetryAfter(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	for i, after := range []func() string{func() string { return "0" }, func() string { return time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat) }} {
		var n atomic.Int64
		url, calls := endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
			if c := n.Add(1); c <= 4 {
				w.Header().Set("Retry-After", after())
				w.WriteHeader([]int{429, 503}[c%2])
			}
		})
		policy := pushTo(url)
		policy.MaxAttempts = 2
		q := f.pushes(t, fmt.Sprint("q", i), policy)
		f.publish(t, q.Name, "x")
		for range 5 {
			called(t, calls)
		}
		if is := f.becomes(t, q.Name, "it is acknowledged", isEmpty); is.Stats.DeadLetters != 0 {
			t.Errorf("%+v", is.Stats)
		}
	}
	// A time ahead holds the queue back, whose other messages stay in it.
	url, calls := endpoint(t, status(503, "Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)))
	q := f.pushes(t, "later", pushTo(url))
	f.publish(t, q.Name, "first")
	called(t, calls)
	f.publish(t, q.Name, "second")
	is := f.becomes(t, q.Name, "one waits, the other stays, and that is told", func(q message.Queue) bool {
		return q.Stats.Waiting == 1 && q.Stats.Depth == 1 && !q.PushStatus.ResumeAt.IsZero()
	})
	if d := time.Until(is.PushStatus.ResumeAt); len(calls) != 0 || d > time.Minute || d < 40*time.Second || !strings.Contains(is.PushStatus.LastError, "503") {
		t.Errorf("%d more calls, %v, %+v", len(calls), d, is.PushStatus)
	}
	// Another consumer gets what the endpoint does not.
	if m := one(t, f.subscribe(t, q.Name, 1, time.Minute)); string(m.Body) != "second" || m.Attempt != 1 {
		t.Errorf("%+v", m)
	}
}

// A push begins, changes and ends with the queue's.
func TestPushChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	first, firstCalls := endpoint(t, ok)
	second, secondCalls := endpoint(t, ok)
	q := f.queue(t, "q")
	f.publish(t, q, "1")
	f.edit(t, q, func(p *message.Policy) { p.Replace(&message.Push{URL: first}) })
	called(t, firstCalls)
	f.edit(t, q, func(p *message.Policy) { p.EditPush(func(p *message.Push) { p.URL = second }) })
	for deadline := within(t); len(secondCalls) == 0; <-time.After(50 * time.Millisecond) { // Other processes notice soon.
		if deadline.Err() != nil {
			t.Fatal("the other URL is not called")
		}
		f.publish(t, q, "2")
	}
	f.edit(t, q, func(p *message.Policy) { p.Replace(nil) })
	f.becomes(t, q, "what comes afterwards stays", func(is message.Queue) bool {
		f.publish(t, q, "3")
		<-time.After(30 * time.Millisecond)
		return is.Stats.Depth > 0 && is.Push == nil && is.PushStatus == nil
	})
	f.edit(t, q, func(p *message.Policy) { p.Replace(&message.Push{URL: first}) })
	f.becomes(t, q, "it goes on", isEmpty)
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	again := f.pushes(t, "q", pushTo(first))
	f.publish(t, again.Name, "4")
	f.becomes(t, again.Name, "a queue of the same name is pushed", isEmpty)
}

// A worker that ends while it calls gives its message back, and another one pushes it.
func TestPushWorkerEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	var n atomic.Int64
	hang := make(chan struct{})
	url, calls := endpoint(t, func(_ http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
	})
	defer close(hang)
	stop := f.worker(t, 10*time.Millisecond)
	q := f.pushes(t, "q", pushTo(url))
	id := f.publish(t, q.Name, "x")
	called(t, calls)
	stop()
	other := fixture{f.process(t, message.Limits{}), f.broker, f.log, f.logs, f.db, f.system, f.owner, f.url, f.keys}
	run(t, other.Run)
	other.worker(t, time.Second)
	if c := called(t, calls); c.header.Get("webhook-id") != id {
		t.Errorf("%v", c.header)
	}
	other.becomes(t, q.Name, "it is acknowledged", isEmpty)
}

// A push does what a pause says.
func TestPushPause(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	url, calls := endpoint(t, ok)
	q := f.pushes(t, "q", pushTo(url))
	if _, err := f.PauseQueue(within(t), q.Name); err != nil {
		t.Fatal(err)
	}
	f.publish(t, q.Name, "x")
	select {
	case <-calls:
		t.Error("a paused queue is pushed")
	case <-time.After(300 * time.Millisecond):
	}
	if _, err := f.ResumeQueue(within(t), q.Name); err != nil {
		t.Fatal(err)
	}
	called(t, calls)
}

// Calls at a time begin with one, are one more after a success, and half after an overload, whatever waits in the queue.
func TestPushAdapts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	answers := make(chan int)
	url, calls := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case code := <-answers:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(max(code, http.StatusOK))
		case <-r.Context().Done():
		}
	})
	q := f.pushes(t, "q", pushTo(url))
	for range 20 {
		f.publish(t, q.Name, "x")
	}
	// more wants n more calls, and no other one.
	more := func(n int, after string) {
		t.Helper()
		for range n {
			called(t, calls)
		}
		select {
		case <-calls:
			t.Fatalf("more than %d calls come %s", n, after)
		case <-time.After(200 * time.Millisecond):
		}
	}
	more(1, "at the beginning")
	answers <- http.StatusOK
	more(2, "after a success")
	answers <- http.StatusServiceUnavailable
	more(0, "after an overload of two")
	answers <- http.StatusOK // It began before the overload.
	more(1, "after that")
	close(answers) // The rest is taken at once.
	f.becomes(t, q.Name, "all is taken", isEmpty)
}
