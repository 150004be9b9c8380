package message_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/message"
)

const forged = "the message belongs to another tenant"

// forge puts a message with the given headers in a queue without the service.
func (f fixture) forge(t *testing.T, queue string, headers map[string]string) (id string) {
	t.Helper()
	m := broker.Message{
		ID: uuid.Must(uuid.NewV7()).String(), Body: []byte("secret"), Attributes: map[string]string{"secret": "secret"}, Headers: headers,
	}
	if err := f.broker.Publish(within(t), broker.Address{Queue: queue}, m); err != nil {
		t.Fatal(err)
	}
	return m.ID
}

// refused blocks until a's queue has its one dead letter, and checks that it has no content of the message.
func (f fixture) refused(t *testing.T, q message.QueueName, id string) {
	t.Helper()
	var letters []message.DeadLetter
	eventually(t, "a dead letter", func() bool {
		var err error
		letters, _, err = f.ListDeadLetters(as(t, "a"), q, message.Filter{}, 0, "")
		return err != nil || len(letters) > 0
	})
	if len(letters) != 1 || letters[0].MessageID != id || letters[0].Reason != forged || letters[0].Attempts != 1 {
		t.Errorf("%+v", letters)
	}
	n := f.count(t, `SELECT count(*) FROM dead_letters
		WHERE tenant = 'a' AND octet_length(body) = 0 AND attributes::text = '{}' AND headers::text = '{}'`)
	if n != 1 || f.count(t, `SELECT count(*) FROM dead_letters`) != 1 {
		t.Error("something of the message is kept, or it is somewhere else")
	}
}

func TestForgedTenantInAStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	sub := f.subscribeAs(t, "a", q)
	for _, headers := range []map[string]string{nil, {"tenant": "a"}, {"attempts": "1"}} {
		id := f.forge(t, "a.orders", headers)
		m := one(t, sub)
		if m.ID != id || string(m.Body) != "secret" {
			t.Errorf("headers %v: %+v", headers, m)
		}
		sub.Ack([]string{m.ID})
	}
	for _, headers := range []map[string]string{{"tenant": "b"}, {"tenant": "b", "attempts": "7", "reason": "secret"}, {"tenant": ""}} {
		id := f.forge(t, "a.orders", headers)
		f.refused(t, q, id)
		f.exec(t, `DELETE FROM dead_letters`)
	}
	nothing(t, sub)
	fine := f.publishAs(t, "a", to(q, "x"))
	if m := one(t, sub); m.ID != fine {
		t.Errorf("%+v", m)
	}
	if line := f.line(t, "message of another tenant refused"); line["tenant"] != "a" || line["named"] != "b" || line["queue"] != "orders" {
		t.Errorf("%v", line)
	}
	if got, err := f.GetQueue(as(t, "a"), q); err != nil || got.Stats.Depth != 0 {
		t.Errorf("%+v %v", got.Stats, err)
	}
}

func TestForgedTenantAtAHandler(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	handled := make(chan message.Message, 10)
	id := f.forge(t, "a.orders", map[string]string{"tenant": "b"})
	f.workerFor(t, actives("a", "b").list, time.Second, message.HandleBytes("orders", func(_ context.Context, m message.Message) error {
		handled <- m
		return nil
	}))
	f.refused(t, q, id)
	fine := f.publishAs(t, "a", to(q, "x"))
	if m := <-handled; m.ID != fine {
		t.Errorf("%+v was handled", m)
	}
}

// TestForgedTenantWhilePostgresIsAway checks what happens while the dead letter cannot be inserted.
func TestForgedTenantWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	sub := f.subscribeAs(t, "a", q)
	back := f.away(t)
	id := f.forge(t, "a.orders", map[string]string{"tenant": "b"})
	f.line(t, "message of another tenant cannot be moved, trying again")
	nothing(t, sub)
	back()
	f.refused(t, q, id)
	nothing(t, sub)

	back = f.away(t)
	id = f.forge(t, "a.orders", map[string]string{"tenant": "b"})
	eventually(t, "it was received", func() bool {
		n, err := f.broker.Ready(within(t), "a.orders")
		return err == nil && n == 0
	})
	sub.Close() // It goes back.
	back()
	f.exec(t, `DELETE FROM dead_letters`)
	f.subscribeAs(t, "a", q)
	var attempts int
	eventually(t, "a dead letter", func() bool {
		return f.system.QueryRow(within(t), `SELECT attempts FROM dead_letters WHERE message_id = $1::text::uuid`, id).Scan(&attempts) == nil
	})
	if attempts != 2 {
		t.Errorf("%d attempts", attempts)
	}
}

// TestTenantOfRetries checks that messages which fail come again with their own tenant.
func TestTenantOfRetries(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueAs(t, "a", "tasks", quick)
	f.queueAs(t, "b", "tasks", message.Policy{MaxAttempts: 2, MinBackoff: 10 * time.Millisecond, MaxBackoff: 20 * time.Millisecond})
	f.workerFor(t, actives("a", "b").list, time.Second, message.HandleBytes("tasks", func(ctx context.Context, m message.Message) error {
		if tenant := auth.TenantOf(ctx); tenant != string(m.Body) {
			t.Errorf("%q is handled as %s", m.Body, tenant)
		}
		return context.DeadlineExceeded
	}))
	ids := map[string]string{"a": f.publishAs(t, "a", to(q, "a")), "b": f.publishAs(t, "b", to(q, "b"))}
	for tenant, most := range map[string]int{"a": 3, "b": 2} {
		var letters []message.DeadLetter
		eventually(t, "a dead letter", func() bool {
			var err error
			letters, _, err = f.ListDeadLetters(as(t, tenant), q, message.Filter{}, 0, "")
			return err != nil || len(letters) > 0
		})
		if len(letters) != 1 || letters[0].MessageID != ids[tenant] || letters[0].Attempts != most || string(letters[0].Body) != tenant {
			t.Errorf("%s: %+v", tenant, letters)
		}
		if _, _, err := f.RedriveDeadLetters(as(t, tenant), q, all, 0); err != nil {
			t.Error(err)
		}
		eventually(t, "it is a dead letter again", func() bool {
			letters, _, err := f.ListDeadLetters(as(t, tenant), q, message.Filter{}, 0, "")
			return err == nil && len(letters) == 1
		})
	}
	for _, entry := range f.logs.FilterMessage("message failed").All() {
		if line := entry.ContextMap(); line["tenant"] == nil || ids[line["tenant"].(string)] != line["id"] {
			t.Errorf("%v", line)
		}
	}
}
