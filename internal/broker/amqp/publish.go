package amqp

import (
	"context"
	"errors"

	"plinth/internal/broker"
)

// Generation implements broker.Broker: it counts the connections for publishing, since a server that lost what was declared
// lost them too.
func (b *Broker) Generation() uint64 { return b.publisher.generation.Load() }

// Publish implements broker.Broker. Of the message, the id has at most 255 bytes; an attribute's key 255 and all attributes
// together 96 KiB, with 6 bytes added for each, and 8,000 of them; a header's key 248 and all headers together 16 KiB, with
// 13 bytes added for each. More is errs.InvalidArgument.
func (b *Broker) Publish(ctx context.Context, to broker.Address, m broker.Message) error {
	return b.PublishBatch(ctx, []broker.Publication{{To: to, Message: m}})[0]
}

// PublishBatch implements broker.Broker. The messages have the limits that Publish has.
func (b *Broker) PublishBatch(ctx context.Context, publications []broker.Publication) []error {
	told := make([]error, len(publications))
	err := ctx.Err()
	if err == nil && b.publisher.blocked() {
		err = errBlocked
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	batch := newBatch(ctx, publications, told)
	if err == nil && len(batch.entries) > 0 {
		err = b.publish(ctx, batch, told)
	}
	for i := range told {
		if errors.Is(told[i], errUntold) {
			told[i] = err
		}
	}
	return told
}

// errUntold stands for the outcome of a publication that has none yet.
var errUntold = errors.New("untold")

// publish hands a batch to the publisher and waits until every outcome is told. Its error is for those that are not.
func (b *Broker) publish(ctx context.Context, batch *batch, told []error) error {
	select {
	case b.publisher.batches <- batch:
	case <-ctx.Done():
		return expired(ctx, "RabbitMQ is away or takes no messages")
	case <-b.life.Done():
		return context.Cause(b.life)
	}
	for range batch.entries {
		select {
		case o := <-batch.outcomes:
			told[o.index] = o.err
		case <-ctx.Done():
			return expired(ctx, "RabbitMQ did not confirm the message in time")
		}
	}
	return nil
}

// batch is what one caller publishes at the same time.
type batch struct {
	ctx      context.Context // the caller's: what is not written when it ends is not published
	entries  []entry
	outcomes chan outcome // with a place for each entry, since the caller may leave
}

// entry is one publication of a batch.
type entry struct {
	index         int // in the caller's batch
	exchange, key string
	message       broker.Message
}

type outcome struct {
	index int
	err   error
}

// newBatch makes a batch of the publications that are within the limits, and tells the outcome of the others.
func newBatch(ctx context.Context, publications []broker.Publication, told []error) *batch {
	b := &batch{ctx: ctx, entries: make([]entry, 0, len(publications)), outcomes: make(chan outcome, len(publications))}
	for i, p := range publications {
		e, err := newEntry(i, p)
		if err != nil {
			told[i] = err
			continue
		}
		told[i] = errUntold
		b.entries = append(b.entries, e)
	}
	return b
}

func newEntry(index int, p broker.Publication) (entry, error) {
	e := entry{index: index, key: p.To.Queue, message: p.Message}
	var err error
	if p.To.Queue != "" || p.To.Topic == "" {
		err = checkQueue(p.To.Queue)
	} else {
		e.exchange = topicExchange
		e.key, err = topicKey(p.To.Topic, p.To.RoutingKey)
	}
	if err == nil {
		err = checkMessage(p.Message)
	}
	return e, err
}
