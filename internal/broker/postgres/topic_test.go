package postgres

import (
	"errors"
	"strings"
	"testing"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	db := openDB(t, pgtest.New(t))
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"", []string{""}, []string{"a", "."}},
		{"#", []string{"", "a", "a.b.c"}, nil},
		{"*", []string{"a", "größe", "two words", "line\nbreak"}, []string{"", "a.b"}},
		{"a", []string{"a"}, []string{"", "A", "aa", "a.a", "x.a", "a.x", "a\n", "\na"}},
		{"a.*.c", []string{"a.b.c"}, []string{"a.c", "a.b.b.c", "a.b.c.d", "x.a.b.c"}},
		{"a.#", []string{"a", "a.b", "a.b.c"}, []string{"", "ab", "ab.c", "b.a"}},
		{"#.z", []string{"z", "a.z", "a.b.z"}, []string{"", "az", "z.a"}},
		{"a.#.z", []string{"a.z", "a.b.z", "a.b.c.z"}, []string{"a", "z", "a.b"}},
		{"#.*", []string{"a", "a.b"}, []string{""}},
		{"a+b.(c|d).[e]^$\\.{2}?", []string{"a+b.(c|d).[e]^$\\.{2}?"}, []string{"aab.c.e", "a+b.c.e"}},
		{"#-#.a*", []string{"#-#.a*"}, []string{"-.a", "a-b.aa"}},
		{strings.Repeat("#.", 100) + "z", []string{strings.Repeat("a.", 100) + "z"}, []string{strings.Repeat("a.", 100) + "b"}},
	} {
		for want, keys := range map[bool][]string{true: c.yes, false: c.no} {
			for _, key := range keys {
				var got bool
				err := db.QueryRow(patient(t), `SELECT $1::text ~ $2::text`, pathOf(key), matches(c.pattern)).Scan(&got)
				if err != nil || got != want {
					t.Errorf("pattern %q and key %q: %v, error %v, want %v", c.pattern, key, got, err, want)
				}
			}
		}
	}
}

func TestDeleteEndsBindings(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	if err := b.Bind(patient(t), queue, broker.Binding{Topic: "default.t", Pattern: "#"}); err != nil {
		t.Fatal(err)
	}
	to := broker.Address{Topic: "default.t", RoutingKey: "a"}
	if err := b.Publish(patient(t), to, message("kept")); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(patient(t), queue); err != nil {
		t.Fatal(err)
	}
	if err := b.Declare(patient(t), broker.Queue{Name: queue}); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(patient(t), to, message("lost")); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Publish: %v, want ErrNoQueue", err)
	}
}

// A publication that the database refuses would fail the whole statement, and with it the messages of other callers.
func TestUnusablePublicationsHarmNoOther(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	header := message("header")
	header.Headers = map[string]string{"broken": "\xff"}
	outcomes := b.PublishBatch(patient(t), []broker.Publication{
		{To: broker.Address{Queue: queue + "\x00"}, Message: message("queue")},
		{To: broker.Address{Topic: "\xff"}, Message: message("topic")},
		{To: broker.Address{Topic: "t", RoutingKey: "a\x00"}, Message: message("key")},
		{To: broker.Address{Queue: queue}, Message: header},
		{To: broker.Address{Queue: queue}, Message: broker.Message{ID: "one"}},
		{To: broker.Address{Queue: queue}, Message: message("fine")},
	})
	for i, err := range outcomes {
		if fine := i == len(outcomes)-1; fine && err != nil || !fine && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("publication %d: %v", i, err)
		}
	}
	if d := receive(t, subscribe(t, b, queue, 1)); string(d.Body) != "fine" {
		t.Errorf("received %q, want the usable one", d.Body)
	}
}
