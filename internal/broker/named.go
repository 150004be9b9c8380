package broker

import (
	"context"
	"encoding/base64"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"
)

// topicMark is how much of the mark topics have: a routing key leaves room for no more.
const topicMark = 5

// Named returns a broker whose queues and topics have, on the broker, names that those of no other database have: a broker that
// outlives a database has nothing for the next one. The names are followed by "@" and a mark of the identity of the database, of 22
// characters, or of topics the first 5 of them. identity is asked until it answers once; until then every call fails with its error.
func Named(b Broker, identity func(context.Context) (uuid.UUID, error)) Broker {
	return &named{Broker: b, identity: identity}
}

type named struct {
	Broker
	identity func(context.Context) (uuid.UUID, error)
	known    atomic.Pointer[string]
}

// mark returns what follows the names of queues.
func (n *named) mark(ctx context.Context) (string, error) {
	if mark := n.known.Load(); mark != nil {
		return *mark, nil
	}
	id, err := n.identity(ctx)
	if err != nil {
		return "", err
	}
	mark := "@" + base64.RawURLEncoding.EncodeToString(id[:])
	n.known.Store(&mark)
	return mark, nil
}

func (n *named) topic(topic, mark string) string { return topic + mark[:1+topicMark] }

func (n *named) address(to Address, mark string) Address {
	if to.Queue != "" {
		to.Queue += mark
	}
	if to.Topic != "" {
		to.Topic = n.topic(to.Topic, mark)
	}
	return to
}

func (n *named) bindings(bindings []Binding, mark string) []Binding {
	bindings = slices.Clone(bindings)
	for i := range bindings {
		bindings[i].Topic = n.topic(bindings[i].Topic, mark)
	}
	return bindings
}

func (n *named) Declare(ctx context.Context, queue Queue) error {
	mark, err := n.mark(ctx)
	if err != nil {
		return err
	}
	queue.Name += mark
	return n.Broker.Declare(ctx, queue)
}

func (n *named) Bind(ctx context.Context, queue string, bindings ...Binding) error {
	mark, err := n.mark(ctx)
	if err != nil {
		return err
	}
	return n.Broker.Bind(ctx, queue+mark, n.bindings(bindings, mark)...)
}

func (n *named) Unbind(ctx context.Context, queue string, bindings ...Binding) error {
	mark, err := n.mark(ctx)
	if err != nil {
		return err
	}
	return n.Broker.Unbind(ctx, queue+mark, n.bindings(bindings, mark)...)
}

func (n *named) Delete(ctx context.Context, queue string) error {
	mark, err := n.mark(ctx)
	if err != nil {
		return err
	}
	return n.Broker.Delete(ctx, queue+mark)
}

func (n *named) Purge(ctx context.Context, queue string) (int64, error) {
	mark, err := n.mark(ctx)
	if err != nil {
		return 0, err
	}
	return n.Broker.Purge(ctx, queue+mark)
}

func (n *named) Ready(ctx context.Context, queue string) (int64, error) {
	mark, err := n.mark(ctx)
	if err != nil {
		return 0, err
	}
	return n.Broker.Ready(ctx, queue+mark)
}

func (n *named) Browse(ctx context.Context, queue string, behind int64, limit, bytes int) ([]Browsed, bool, error) {
	mark, err := n.mark(ctx)
	if err != nil {
		return nil, false, err
	}
	return n.Broker.Browse(ctx, queue+mark, behind, limit, bytes)
}

func (n *named) Publish(ctx context.Context, to Address, m Message) error {
	mark, err := n.mark(ctx)
	if err != nil {
		return err
	}
	return n.Broker.Publish(ctx, n.address(to, mark), m)
}

func (n *named) PublishBatch(ctx context.Context, batch []Publication) []error {
	mark, err := n.mark(ctx)
	if err != nil {
		return slices.Repeat([]error{err}, len(batch))
	}
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].To = n.address(batch[i].To, mark)
	}
	return n.Broker.PublishBatch(ctx, batch)
}

func (n *named) Subscribe(ctx context.Context, queue string, credit int) (Subscription, error) {
	mark, err := n.mark(ctx)
	if err != nil {
		return nil, err
	}
	return n.Broker.Subscribe(ctx, queue+mark, credit)
}
