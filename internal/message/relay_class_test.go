package message_test

import (
	"testing"

	"plinth/internal/message"
	"plinth/internal/pg"
)

// Calls may wait for messages that the relay has claimed, such as a pull for one that it has just sent, and they may have all connections of
// their class. So what the relay asks the database before its batch is over must not need one of these.
func TestRelayNeedsNoConnectionOfCalls(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	full := f.queueOf(t, "full", message.Policy{MaxLength: 1, Bindings: []message.Binding{{Topic: "orders", Pattern: "#"}}})
	orders, err := message.ToTopic("orders", "new")
	if err != nil {
		t.Fatal(err)
	}
	unknown := f.queue(t, "unknown")
	if err := f.broker.Delete(within(t), "default."+unknown.String()); err != nil {
		t.Fatal(err)
	}
	calls, err := pg.Open(t.Context(), pg.Config{URL: f.url, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(calls.Close)
	other := f
	other.db = calls
	s := other.process(t, message.Limits{})
	if _, err := s.Publish(within(t), message.Publication{To: orders, Body: []byte("fills it")}); err != nil { // And s declares what is bound.
		t.Fatal(err)
	}
	f.publishTx(t, message.Publication{To: orders}, message.Publication{To: message.ToQueue(unknown)})

	held, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- calls.InTx(within(t), func(*pg.Tx) error { close(held); <-release; return nil })
	}()
	<-held
	defer func() {
		close(release)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	run(t, s.Relay)
	eventually(t, "a queue that the broker did not know has its message", func() bool {
		return f.asks(t, `SELECT EXISTS (SELECT FROM broker_messages m JOIN broker_queues q ON q.id = m.queue_id WHERE q.name = 'default.' || $1)`, unknown)
	})
	eventually(t, "a message to a topic waits for the queue that is full", func() bool {
		return f.asks(t, `SELECT EXISTS (SELECT FROM message_waiting WHERE queue = $1)`, full)
	})
}

// asks asks the database something about a queue.
func (f fixture) asks(t *testing.T, query string, queue message.QueueName) (is bool) {
	t.Helper()
	if err := f.owner.QueryRow(within(t), query, queue.String()).Scan(&is); err != nil {
		t.Fatal(err)
	}
	return is
}
