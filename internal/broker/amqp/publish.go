package amqp

import (
	"context"
	"errors"

	"plinth/internal/broker"
)

// Generation implements broker.Broker. It counts the connections for publishing, since a server that lost what was declared
// also lost its connections.
func (b *Broker) Generation() uint64 { return b.publisher.generation.Load() }

// Publish implements broker.Broker. A message id may have at most 255 bytes. An attribute's key may have 255 bytes; all
// attributes together may have 96 KiB, counting 6 extra bytes for each, and there may be 8,000 of them. A header's key may
// have 248 bytes; all headers together may have 16 KiB, counting 13 extra bytes for each, and there may be 8,000 of them as
// well. Publish returns errs.InvalidArgument for anything larger.
func (b *Broker) Publish(ctx context.Context, to broker.Address, m broker.Message) error {
	return b.PublishBatch(ctx, []broker.Publication{{To: to, Message: m}})[0]
}

// PublishBatch implements broker.Broker. The messages have the same limits as in Publish.
func (b *Broker) PublishBatch(ctx context.Context, publications []broker.Publication) []error {
	results := make([]error, len(publications))
	err := ctx.Err()
	if err == nil && b.publisher.blocked() {
		err = errBlocked
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	batch := newBatch(ctx, publications, results)
	if err == nil && len(batch.items) > 0 {
		err = b.publish(ctx, batch, results)
	}
	for i := range results {
		if errors.Is(results[i], errPending) {
			results[i] = err
		}
		if errors.Is(results[i], errLost) {
			results[i] = broker.Lost(results[i])
		}
	}
	return results
}

// errPending marks a publication that has no outcome yet.
var errPending = errors.New("pending")

// publish passes a batch to the publisher and waits for all outcomes. Its error applies to the publications that have none
// yet.
func (b *Broker) publish(ctx context.Context, batch *batch, results []error) error {
	select {
	case b.publisher.batches <- batch:
	case <-ctx.Done():
		return expired(ctx, "RabbitMQ is away or takes no messages")
	case <-b.life.Done():
		return context.Cause(b.life)
	}
	for n := range batch.items {
		select {
		case o := <-batch.outcomes:
			results[o.index] = o.err
		case <-ctx.Done():
			batch.leave(len(batch.items)-n, results, expired(ctx, "RabbitMQ did not confirm the message in time"))
			return nil
		}
	}
	return nil
}

// leave marks the items that have no outcome yet as in doubt, and passes on their outcomes when they come.
func (b *batch) leave(left int, results []error, err error) {
	outcomes := map[int]chan error{}
	for i := range results {
		if errors.Is(results[i], errPending) {
			outcomes[i] = make(chan error, 1)
			results[i] = &broker.InDoubt{Err: err, Outcome: outcomes[i]}
		}
	}
	go func() {
		for range left {
			o := <-b.outcomes // Each item has an outcome, at the latest when its channel is lost.
			outcomes[o.index] <- o.err
		}
	}()
}

// batch is what one caller publishes at the same time.
type batch struct {
	ctx      context.Context // the caller's: what is not written before it ends is not published
	items    []item
	outcomes chan outcome // with room for each item, since the caller may leave
}

// item is one publication of a batch.
type item struct {
	index         int // in the caller's batch
	to            broker.Address
	exchange, key string
	message       broker.Message
}

func (e item) tenant() string { return e.to.Tenant() }

type outcome struct {
	index int
	err   error
}

// newBatch returns a batch of the publications that are within the limits, and sets the results of the others.
func newBatch(ctx context.Context, publications []broker.Publication, results []error) *batch {
	b := &batch{ctx: ctx, items: make([]item, 0, len(publications)), outcomes: make(chan outcome, len(publications))}
	for i, p := range publications {
		e, err := newItem(i, p)
		if err != nil {
			results[i] = err
			continue
		}
		results[i] = errPending
		b.items = append(b.items, e)
	}
	return b
}

func newItem(index int, p broker.Publication) (item, error) {
	e := item{index: index, to: p.To, exchange: queueExchange, key: p.To.Queue, message: p.Message}
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
