// Package broker is the contract of the message broker: a seam with two implementations, RabbitMQ (broker/amqp) and
// Postgres (broker/postgres). The suite in broker/brokertest is the contract in executable form; both pass it whole.
//
// Delivery is at least once. A message that Publish confirmed is delivered until a consumer acknowledges it, through
// crashes and restarts of publishers, consumers and the broker. Order is kept as far as one publisher, one consumer and
// no redelivery make it possible; nobody should lean on it.
package broker

import (
	"context"

	"plinth/internal/errs"
)

// ErrNoQueue says that the queue is not declared on the broker. It is NotFound to whoever does not handle it.
var ErrNoQueue = errs.New(errs.NotFound, "queue not found")

// Message is what a broker carries. Its body may be empty.
type Message struct {
	// ID is a UUIDv7, made by the publisher. The time in it is when the message was published.
	ID         string
	Body       []byte
	Attributes map[string]string
}

// Delivery is one attempt to have a message handled. It is outstanding until settled: by Ack or Nack, by the end of its
// Subscription, or by the loss of the connection it came over (then it is delivered again, to whoever subscribes).
type Delivery struct {
	Message
	// Attempt counts the deliveries of the message, this one included, from 1. Deliveries that were cut short by a lost
	// connection may not be counted.
	Attempt int
	Settler
}

// Settler settles one Delivery, once; a second call has no effect. An error means that the outcome is unknown and the
// message may be delivered again.
type Settler interface {
	// Ack says that the message was handled: it will not be delivered again.
	Ack(ctx context.Context) error
	// Nack gives the message back to the queue, to be delivered again at once.
	Nack(ctx context.Context) error
}

// Broker moves messages. Its methods are safe for concurrent use and work only while Run runs. A broker that is away or
// that blocks publishers gives errs.Unavailable, at the context's deadline or after a few seconds, whichever comes first;
// never a hang.
type Broker interface {
	// Run holds the connections, and makes them anew with back-off and jitter for ever, until ctx ends; then it closes
	// them and returns nil. A broker that is away is no error.
	Run(ctx context.Context) error
	// Ping says whether the broker can be used now. It is cheap: readiness asks every second.
	Ping(ctx context.Context) error

	// Declare makes a durable queue; one that is there already is left as it is.
	Declare(ctx context.Context, queue string) error
	// Delete removes a queue with all its messages and ends its subscriptions; an unknown one is no error.
	Delete(ctx context.Context, queue string) error
	// Ready counts the messages that wait in a queue, those that are outstanding left out.
	Ready(ctx context.Context, queue string) (int64, error)

	// Publish puts a message in a queue. When it returns nil, the broker holds the message durably. ErrNoQueue and
	// errs.InvalidArgument mean that it was not kept; any other error that the outcome is unknown, so that publishing again
	// may double it.
	Publish(ctx context.Context, queue string, m Message) error
	// Subscribe starts to receive from a queue, with at most credit deliveries outstanding. Where the broker is away it
	// waits for it as long as ctx allows. ctx bounds the call, not the subscription.
	Subscribe(ctx context.Context, queue string, credit int) (Subscription, error)
}

// Subscription receives deliveries of one queue. It outlives the connections it runs over: after a loss it subscribes
// again by itself, for ever.
type Subscription interface {
	// Receive waits for the next delivery until ctx ends. ErrNoQueue means that the queue was deleted, errs.Unavailable
	// that the broker's Run has ended: either ends the subscription. Not for concurrent use.
	Receive(ctx context.Context) (Delivery, error)
	// Close ends the subscription; what is outstanding, or was not received yet, goes back to the queue at once.
	Close()
}
