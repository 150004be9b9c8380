package message_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"plinth/internal/errs"
	"plinth/internal/message"
)

func TestParseQueueName(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "task_queue", "Orders.v2-eu", "0", strings.Repeat("x", 128)} {
		if q, err := message.ParseQueueName(good); err != nil || q.String() != good {
			t.Errorf("%q: %v %v", good, q, err)
		}
	}
	for _, bad := range []string{"", ".a", "-a", "_a", "a b", "a/b", "a:pause", "é", "a\n", strings.Repeat("x", 129)} {
		if _, err := message.ParseQueueName(bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestQueues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	if _, err := f.CreateQueue(within(t), q, message.Policy{}); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("created twice: %v", err)
	}
	if err := f.EnsureQueue(within(t), q); err != nil {
		t.Errorf("ensured where it is: %v", err)
	}
	f.publish(t, q, "a")
	f.publish(t, q, "b")
	got, err := f.GetQueue(within(t), q)
	if err != nil || got.Name != q || got.CreatedAt.IsZero() || got.Stats.Depth != 2 {
		t.Errorf("%+v %v", got, err)
	}
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteQueue(within(t), q); !errs.Is(err, errs.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := f.GetQueue(within(t), q); !errs.Is(err, errs.NotFound) {
		t.Errorf("got after it was deleted: %v", err)
	}
	if _, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q)}); !errs.Is(err, errs.NotFound) {
		t.Errorf("published after it was deleted: %v", err)
	}
	f.queue(t, "orders")
	if got, err := f.GetQueue(within(t), q); err != nil || got.Stats.Depth != 0 {
		t.Errorf("a new queue has messages of the old one: %+v %v", got, err)
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	want := message.Policy{
		MaxAttempts: 3, MinBackoff: 5 * time.Millisecond, MaxBackoff: time.Hour, MessageTTL: 1500 * time.Millisecond, MaxLength: 7,
		DeadLetterRetention: 10 * 365 * 24 * time.Hour, Bindings: []message.Binding{{"a", "#"}, {"a", "x.*"}, {"b", "#"}},
	}
	asked := want
	asked.Bindings = []message.Binding{{"b", "#"}, {"a", "x.*"}, {"a", "#"}, {"b", "#"}}
	q := name(t, "orders")
	created, err := f.CreateQueue(within(t), q, asked)
	if err != nil || !reflect.DeepEqual(created.Policy, want) {
		t.Errorf("created %+v %v", created, err)
	}
	if err := f.EnsureQueue(within(t), q); err != nil {
		t.Error(err)
	}
	if got, err := f.GetQueue(within(t), q); err != nil || !reflect.DeepEqual(got.Policy, want) || got.Paused {
		t.Errorf("got %+v %v", got, err)
	}
	if page, _, err := f.ListQueues(within(t), 0, ""); err != nil || len(page) != 1 || !reflect.DeepEqual(page[0].Policy, want) || page[0].Stats != nil {
		t.Errorf("listed %+v %v", page, err)
	}
	if got, err := f.CreateQueue(within(t), name(t, "plain"), message.Policy{}); err != nil || !reflect.DeepEqual(got.Policy, message.DefaultPolicy) {
		t.Errorf("without a policy: %+v %v", got, err)
	}
	for field, bad := range map[string]message.Policy{
		"max_backoff": {MinBackoff: 11 * time.Minute}, "message_ttl": {MessageTTL: 1500 * time.Microsecond},
	} {
		_, err := f.CreateQueue(within(t), name(t, field), bad)
		if !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestUpdateQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := name(t, "orders")
	if _, err := f.CreateQueue(within(t), q, message.Policy{MaxAttempts: 3, MessageTTL: time.Hour, MaxLength: 7}); err != nil {
		t.Fatal(err)
	}
	want := message.DefaultPolicy
	want.MaxAttempts, want.MessageTTL, want.MaxLength, want.MinBackoff = 3, time.Hour, 7, 2*time.Second
	for range 2 {
		got, err := f.UpdateQueue(within(t), q, func(p *message.Policy) { p.MinBackoff = 2 * time.Second })
		if err != nil || !reflect.DeepEqual(got.Policy, want) {
			t.Errorf("%+v %v", got, err)
		}
	}
	want.MaxAttempts = message.DefaultPolicy.MaxAttempts
	if got, err := f.UpdateQueue(within(t), q, func(p *message.Policy) { p.MaxAttempts = 0 }); err != nil || !reflect.DeepEqual(got.Policy, want) {
		t.Errorf("reset: %+v %v", got, err)
	}
	for field, test := range map[string]struct {
		change func(*message.Policy)
		kind   errs.Kind
	}{
		"message_ttl": {func(p *message.Policy) { p.MessageTTL = 0 }, errs.FailedPrecondition},
		"max_length":  {func(p *message.Policy) { p.MaxLength = 8 }, errs.FailedPrecondition},
		"max_backoff": {func(p *message.Policy) { p.MaxBackoff = time.Second }, errs.InvalidArgument},
	} {
		if _, err := f.UpdateQueue(within(t), q, test.change); !errs.Is(err, test.kind) || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if got, err := f.GetQueue(within(t), q); err != nil || !reflect.DeepEqual(got.Policy, want) {
		t.Errorf("after what was refused: %+v %v", got, err)
	}
	if _, err := f.UpdateQueue(within(t), name(t, "none"), func(*message.Policy) {}); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown queue: %v", err)
	}
}

// TestUpdatesAtTheSameTime changes different fields concurrently. No change may be lost.
func TestUpdatesAtTheSameTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	var group errgroup.Group
	for range 20 {
		group.Go(func() error {
			_, err := f.UpdateQueue(within(t), q, func(p *message.Policy) { p.MaxAttempts++ })
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.GetQueue(within(t), q); got.MaxAttempts != message.DefaultPolicy.MaxAttempts+20 {
		t.Errorf("%d attempts", got.MaxAttempts)
	}
}

func TestPauseQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	heard := make(chan string, 16)
	notifier := f.notifier(t)
	notifier.Subscribe("plinth_messages", func(payload string) { heard <- payload })
	notify(t, notifier)
	hear := func(want string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		case <-within(t).Done():
			t.Errorf("did not hear %q", want)
		}
	}
	hear("") // It listens.
	for _, want := range []bool{true, true, false} {
		change := f.PauseQueue
		if !want {
			change = f.ResumeQueue
		}
		if got, err := change(within(t), q); err != nil || got.Name != q || got.Paused != want || got.MaxAttempts != 10 {
			t.Errorf("%+v %v", got, err)
		}
		hear("queues")
		if got, err := f.GetQueue(within(t), q); err != nil || got.Paused != want {
			t.Errorf("%+v %v", got, err)
		}
	}
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Error(err)
	}
	hear("queues")
	if _, err := f.PauseQueue(within(t), q); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

// later publishes a delayed message.
func (f fixture) later(t *testing.T, q message.QueueName, key string) {
	t.Helper()
	_, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q), Delay: time.Hour, IdempotencyKey: key})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPurgeQueue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	f.publish(t, q, "outstanding")
	held := f.subscribe(t, q, 1, long)
	one(t, held)
	for _, queue := range []message.QueueName{q, other} {
		f.publish(t, queue, "a")
		f.later(t, queue, "")
		f.later(t, queue, "")
		f.letters(t, queue, 4)
	}
	if got, err := f.GetQueue(within(t), q); err != nil || got.Stats.Depth != 1 || got.Stats.Waiting != 2 || got.Stats.DeadLetters != 4 {
		t.Errorf("before: %+v %v", got.Stats, err)
	}
	if n, err := f.PurgeQueue(within(t), q); n != 3 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if got, err := f.GetQueue(within(t), q); err != nil || got.Stats.Depth != 0 || got.Stats.Waiting != 0 || got.Stats.DeadLetters != 4 {
		t.Errorf("after: %+v %v", got.Stats, err)
	}
	if got, err := f.GetQueue(within(t), other); err != nil || got.Stats.Depth != 1 || got.Stats.Waiting != 2 || got.Stats.DeadLetters != 4 {
		t.Errorf("another queue: %+v %v", got.Stats, err)
	}
	held.Close()
	if m := one(t, f.subscribe(t, q, 1, long)); string(m.Body) != "outstanding" {
		t.Errorf("%v, want what was outstanding", m)
	}
	if _, err := f.PurgeQueue(within(t), name(t, "none")); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown queue: %v", err)
	}
}

func TestDeleteQueueTakesAllAlong(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	for _, queue := range []message.QueueName{q, other} {
		f.later(t, queue, "key of "+queue.String())
		f.letters(t, queue, 2)
		f.exec(t, `INSERT INTO queue_rates VALUES ('default', $1, now(), 0, 600, 600)`, queue.String())
	}
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	f.queue(t, "orders")
	f.later(t, q, "key of orders") // It is free again.
	for queue, want := range map[message.QueueName]message.Stats{
		q: {Waiting: 1}, other: {Waiting: 1, DeadLetters: 2, Rates: message.Rates{Delivered: 10, Acknowledged: 10}},
	} {
		got, err := f.GetQueue(within(t), queue)
		if err != nil {
			t.Fatal(err)
		}
		got.Stats.Rates.Published = 0 // It also counts what the test publishes, once a bucket of time is over.
		if *got.Stats != want {
			t.Errorf("%v: %+v", queue, got.Stats)
		}
	}
}

func TestQueuesInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	for i := range 5 {
		f.queue(t, fmt.Sprintf("q%d", i))
	}
	var names []string
	token := ""
	for {
		page, next, err := f.ListQueues(within(t), 2, token)
		if err != nil || len(page) > 2 {
			t.Fatalf("%v %v", page, err)
		}
		for _, q := range page {
			names = append(names, q.Name.String())
		}
		if next == "" {
			break
		}
		token = next
	}
	if got := strings.Join(names, " "); got != "q0 q1 q2 q3 q4" {
		t.Errorf("pages hold %s", got)
	}
	if page, next, err := f.ListQueues(within(t), 5, ""); len(page) != 5 || next != "" || err != nil {
		t.Errorf("a page that just fits: %d queues, next %q, %v", len(page), next, err)
	}
	for _, bad := range []string{"?", "cQ==", "IQ"} {
		if _, _, err := f.ListQueues(within(t), 2, bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("token %q: %v", bad, err)
		}
	}
}

// TestBrokerThatCameBackEmpty deletes the queue behind the service's back: the table still knows it.
func TestBrokerThatCameBackEmpty(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	forget := func() {
		t.Helper()
		if err := f.broker.Delete(within(t), "default.orders"); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	f.publish(t, q, "a")
	forget()
	if _, err := f.GetQueue(within(t), q); err != nil {
		t.Errorf("Queue: %v", err)
	}
	forget()
	f.subscribe(t, q, 1, 0)
}

// Patterns with many "#" are refused, and those that were stored before have no effect, unless they mean the same as a simple
// one.
func TestPatternsWithManyHashes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	many := message.Binding{Topic: "news", Pattern: "#.#.#.#.#.#.z"}
	if _, err := f.CreateQueue(within(t), name(t, "refused"), message.Policy{Bindings: []message.Binding{many}}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("%v", err)
	}
	q := f.queueOf(t, "orders", message.Policy{Bindings: []message.Binding{{Topic: "news", Pattern: "first"}}})
	add := func(b message.Binding) error {
		_, err := f.UpdateQueue(within(t), q, func(p *message.Policy) { p.Bindings = append(p.Bindings, b) })
		return err
	}
	if err := add(many); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "bindings") {
		t.Errorf("%v", err)
	}
	costly := "#.a.#.b.#.c"
	f.exec(t, `INSERT INTO queue_bindings VALUES ('default', 'orders', 'news', $1), ('default', 'orders', 'news', $2)`, many.Pattern, costly)
	f.exec(t, `INSERT INTO broker_bindings (queue_id, topic, pattern, matches) SELECT id, 'default.news', $1, '^.*$' FROM broker_queues`, costly)
	if err := add(message.Binding{Topic: "news", Pattern: "second"}); err != nil {
		t.Fatalf("a change beside old bindings: %v", err)
	}
	sub := f.subscribe(t, q, 10, long)
	for key, leads := range map[string]bool{"x.y.z": true, "z": true, "a.b.c": false, "first": true, "second": true} {
		p := message.Publication{To: topic(t, "news", key), Body: []byte(key)}
		_, err := f.Publish(within(t), p)
		if leads && err != nil || !leads && !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", key, err)
		}
		if leads {
			m := one(t, sub)
			sub.Ack([]string{m.ID})
			if string(m.Body) != key {
				t.Errorf("%q came, want %q", m.Body, key)
			}
		}
	}
}
