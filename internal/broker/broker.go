// Package broker is the contract of the message broker: a seam with two implementations, RabbitMQ (broker/amqp) and
// Postgres (broker/postgres). The suite in broker/brokertest is the contract in executable form; both pass it whole.
//
// Delivery is at least once. A message that Publish confirmed is delivered until a consumer acknowledges it, through
// crashes and restarts of publishers, consumers and the broker. Order is kept as far as one publisher, one consumer and
// no redelivery make it possible; nobody should lean on it.
package broker

import (
	"context"
	"time"

	"plinth/internal/errs"
)

var (
	// ErrNoQueue says that the queue is not declared on the broker, or that no queue is bound to the topic. It is NotFound to
	// whoever does not handle it.
	ErrNoQueue = errs.New(errs.NotFound, "queue not found")
	// ErrFull says that a queue has its MaxLength. The message was not kept in that queue.
	ErrFull = errs.New(errs.ResourceExhausted, "the queue is full: it has its max_length")
)

// Queue is how a queue is declared. Queues are durable.
type Queue struct {
	Name string
	// MessageTTL drops messages that waited longer; 0 keeps them. To the millisecond.
	MessageTTL time.Duration
	// MaxLength is how many messages may wait, roughly: publishers at the same time may pass it by a few. 0 is no limit.
	MaxLength int64
}

// Binding ties a queue to a topic. The pattern is words with dots between them, where "*" matches any one word and "#"
// any number of words, none among them.
type Binding struct{ Topic, Pattern string }

// Address is where a message goes: to a queue, or to every queue with a binding to the topic whose pattern matches the
// routing key, which has words with dots between them or is empty.
type Address struct {
	Queue             string
	Topic, RoutingKey string // where Queue is empty
}

// Publication is a message on its way to an address.
type Publication struct {
	To Address
	Message
}

// Message is what a broker carries. Its body may be empty.
type Message struct {
	// ID is a UUIDv7, made by the publisher. The time in it is when the message was published.
	ID         string
	Body       []byte
	Attributes map[string]string // the publisher's
	Headers    map[string]string // the service's own: the trace, the attempts before. Keys are lower-case words with dashes.
}

// Delivery is one attempt to have a message handled. It is outstanding until settled: by Ack or Nack, by the end of its
// Subscription, or by the loss of the connection it came over (then it is delivered again, to whoever subscribes).
type Delivery struct {
	Message
	// Attempt counts the deliveries of the message, this one included, from 1. Those that were cut short, by the end of their
	// subscription or the loss of their connection, count as well: a message that kills whoever handles it must be seen to. A
	// delivery that was cut short on its way, before it was received, may be counted.
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

	// Declare makes a queue; one that is there already is left as it is. FailedPrecondition says that it has another
	// MessageTTL or MaxLength, which are fixed when it is made.
	Declare(ctx context.Context, queue Queue) error
	// Bind ties a queue to a topic, once however often it is asked to. ErrNoQueue says that the queue is not declared.
	Bind(ctx context.Context, queue string, b Binding) error
	// Unbind ends a binding; an unknown one, or an unknown queue, is no error.
	Unbind(ctx context.Context, queue string, b Binding) error
	// Delete removes a queue with all its messages and ends its subscriptions; an unknown one is no error.
	Delete(ctx context.Context, queue string) error
	// Purge removes the messages that wait in a queue and counts them; outstanding ones stay.
	Purge(ctx context.Context, queue string) (int64, error)
	// Ready counts the messages that wait in a queue, those that are outstanding left out.
	Ready(ctx context.Context, queue string) (int64, error)
	// Generation changes whenever the broker may have come back without what was declared before. Messages to a queue that
	// is missing fail with ErrNoQueue, but those to a topic are only copied to the queues that are there; so who publishes
	// to a topic declares its queues and bindings once in each generation.
	Generation() uint64

	// Publish puts a message in a queue, or a copy in each queue that the topic leads to. When it returns nil, the broker
	// holds the message durably. ErrNoQueue and errs.InvalidArgument mean that it was not kept; ErrFull that a queue did not
	// take it, though others of the topic may have; any other error that the outcome is unknown, so that publishing again may
	// double it.
	Publish(ctx context.Context, to Address, m Message) error
	// PublishBatch publishes many messages at the same time and gives the error of each, in their order.
	PublishBatch(ctx context.Context, batch []Publication) []error
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
