package message_test

import (
	"fmt"
	"strings"
	"testing"

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
	if _, err := f.CreateQueue(within(t), q); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("created twice: %v", err)
	}
	if err := f.EnsureQueue(within(t), q); err != nil {
		t.Errorf("ensured where it is: %v", err)
	}
	f.publish(t, q, "a")
	f.publish(t, q, "b")
	got, err := f.Queue(within(t), q)
	if err != nil || got.Name != q || got.CreatedAt.IsZero() || got.Depth != 2 {
		t.Errorf("%+v %v", got, err)
	}
	if err := f.DeleteQueue(within(t), q); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteQueue(within(t), q); !errs.Is(err, errs.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := f.Queue(within(t), q); !errs.Is(err, errs.NotFound) {
		t.Errorf("got after it was deleted: %v", err)
	}
	if _, err := f.Publish(within(t), q, nil, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("published after it was deleted: %v", err)
	}
	f.queue(t, "orders")
	if got, err := f.Queue(within(t), q); err != nil || got.Depth != 0 {
		t.Errorf("a new queue has messages of the old one: %+v %v", got, err)
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
		page, next, err := f.Queues(within(t), 2, token)
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
	if page, next, err := f.Queues(within(t), 5, ""); len(page) != 5 || next != "" || err != nil {
		t.Errorf("a page that just fits: %d queues, next %q, %v", len(page), next, err)
	}
	for _, bad := range []string{"?", "cQ==", "IQ"} {
		if _, _, err := f.Queues(within(t), 2, bad); !errs.Is(err, errs.InvalidArgument) {
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
	if _, err := f.Queue(within(t), q); err != nil {
		t.Errorf("Queue: %v", err)
	}
	forget()
	f.subscribe(t, q, 1, 0)
}

func TestPublish(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	large := map[string]string{"a": strings.Repeat("x", 100)}
	if _, err := f.Publish(within(t), q, make([]byte, message.MaxBytes-100), large); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("too large: %v", err)
	}
	if _, err := f.Publish(within(t), q, make([]byte, message.MaxBytes-101), large); err != nil {
		t.Errorf("just fits: %v", err)
	}
	if _, err := f.Publish(within(t), name(t, "none"), nil, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown queue: %v", err)
	}
	auto := newFixture(t, true)
	none := name(t, "none")
	auto.publish(t, none, "a")
	if got, err := auto.Queue(within(t), none); err != nil || got.Depth != 1 {
		t.Errorf("created by publishing: %+v %v", got, err)
	}
	if _, err := auto.Subscribe(within(t), name(t, "other"), 1, 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("subscribing must not create: %v", err)
	}
}
