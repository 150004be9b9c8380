package message_test

import (
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

// browseAll returns the bodies of a view and the lengths of its pages.
func (f fixture) browseAll(t *testing.T, q message.QueueName, view message.View, size int) (bodies []string, pages []int) {
	t.Helper()
	for token := ""; ; {
		list, next, err := f.ListMessages(within(t), q, view, size, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			bodies = append(bodies, string(m.Body))
			if (m.DueAt.IsZero()) != (view == message.Ready) || m.Attempts != 0 {
				t.Errorf("%+v", m)
			}
		}
		pages = append(pages, len(list))
		if token = next; token == "" {
			return bodies, pages
		}
	}
}

func TestListMessages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "others")
	for _, body := range []string{"a", "b", "c", "d", "e"} {
		f.publish(t, q, body)
		f.publish(t, other, "another's")
	}
	f.pull(t, request(q, 2))
	for i, body := range []string{"late", "later", "latest"} {
		p := to(q, body)
		p.Delay = time.Duration(i+1) * time.Hour
		if _, err := f.Publish(within(t), p); err != nil {
			t.Fatal(err)
		}
	}
	for view, want := range map[message.View]string{message.Ready: "c d e", message.PulledView: "a b", message.Waiting: "late later latest"} {
		bodies, pages := f.browseAll(t, q, view, 2)
		if got := strings.Join(bodies, " "); view != message.PulledView && got != want || len(bodies) != len(strings.Fields(want)) || pages[0] != 2 {
			t.Errorf("view %d: %q in pages of %v, want %q", view, got, pages, want)
		}
	}
	f.depth(t, q, 3) // Nothing was taken.
	if _, next, err := f.ListMessages(within(t), q, message.Ready, 1, ""); err != nil || next == "" {
		t.Error(next, err)
	} else if _, _, err := f.ListMessages(within(t), other, message.Ready, 1, next); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("the token of another queue: %v", err)
	}
	if _, _, err := f.ListMessages(within(t), name(t, "none"), message.Ready, 1, ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("an unknown queue: %v", err)
	}
	if _, _, err := f.ListMessages(as(t, "acme"), q, message.Ready, 1, ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("the queue of another tenant: %v", err)
	}
}

// TestListMessagesOfManyBytes has pages end at 2 MiB.
func TestListMessagesOfManyBytes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	for range 3 {
		f.publish(t, q, strings.Repeat("x", 900<<10))
		p := to(q, strings.Repeat("y", 900<<10))
		p.Delay = time.Hour
		if _, err := f.Publish(within(t), p); err != nil {
			t.Fatal(err)
		}
	}
	for _, view := range []message.View{message.Ready, message.Waiting} {
		if _, pages := f.browseAll(t, q, view, 100); len(pages) != 2 || pages[0] != 2 {
			t.Errorf("view %d has pages of %v", view, pages)
		}
	}
}
