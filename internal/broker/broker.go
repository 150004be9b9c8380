// Package broker defines the contract of the message broker. It has two implementations: RabbitMQ (broker/amqp) and Postgres
// (broker/postgres). The suite in broker/brokertest is the contract in executable form; both implementations pass all of it.
//
// Delivery is at least once. A message that Publish confirmed is delivered until a consumer acknowledges it, even if
// publishers, consumers or the broker crash and restart. Order is kept only as far as one publisher, one consumer and no
// redelivery make that possible; nobody should rely on it.
package broker

import (
	"context"
	"time"

	"plinth/internal/errs"
)

var (
	// ErrNoQueue means that the queue is not declared on the broker, or that no queue is bound to the topic. A caller that
	// does not handle it sees errs.NotFound.
	ErrNoQueue = errs.New(errs.NotFound, "queue not found")
	// ErrFull means that a queue has reached its MaxLength. The message was not stored in that queue.
	ErrFull = errs.New(errs.ResourceExhausted, "the queue is full: it has its max_length")
)

// Queue describes how a queue is declared. Queues are durable.
type Queue struct {
	Name string
	// MessageTTL is how long a message may wait before it is dropped, to the millisecond; 0 means no limit.
	MessageTTL time.Duration
	// MaxLength is roughly how many messages may wait: publishers that publish at the same time may exceed it by a few. 0
	// means no limit.
	MaxLength int64
}

// Binding binds a queue to a topic. The pattern consists of words separated by dots, where "*" matches any one word and "#"
// matches any number of words, including none. A pattern has at most MaxHashes "#".
type Binding struct{ Topic, Pattern string }

// Address is where a message goes: to a queue, or to every queue that is bound to the topic with a pattern that matches the
// routing key. The routing key consists of words separated by dots, or is empty.
type Address struct {
	Queue             string
	Topic, RoutingKey string // where Queue is empty
}

// Publication is a message and the address that it is published to.
type Publication struct {
	To Address
	Message
	// Stored says that the message is a row of the service's database, which is removed by a later commit than the one that stores it here,
	// if the broker is in that database. Such a broker need not have it on disk: what loses the one loses the other, too.
	Stored bool
}

// Message is what a broker carries. Its body may be empty.
type Message struct {
	// ID is a UUIDv7 that the publisher generates. Its timestamp is the time of publication.
	ID         string
	Body       []byte
	Attributes map[string]string // the publisher's
	Headers    map[string]string // the service's own: the trace, the attempts before. Keys are lower-case words with dashes.
}

// Delivery is one attempt to have a message handled. It is outstanding until it is settled: by Ack or Nack, by the end of
// its Subscription, or by the loss of the connection it came over. After such a loss it is delivered again, to any
// subscriber.
type Delivery struct {
	Message
	// Attempt counts the deliveries of the message, including this one, from 1. Deliveries that were cut short by the end of
	// their subscription or the loss of their connection count as well, so that a message that kills its handler is noticed.
	// A delivery that was cut short before it was received may be counted too.
	Attempt int
	Settler
}

// ErrCannotBrowse means that the broker cannot show messages without delivering them.
var ErrCannotBrowse = errs.New(errs.Unimplemented, "this message broker cannot show what is in a queue without delivering it")

// Browsed is a message that waits in a queue.
type Browsed struct {
	Message
	Place    int64 // in its queue, greater than those of all older messages
	Attempts int   // deliveries so far
}

// Settler settles one Delivery, once; a second call has no effect. An error means that the outcome is unknown and the
// message may be delivered again.
type Settler interface {
	// Ack reports that the message was handled: it will not be delivered again.
	Ack(ctx context.Context) error
	// Nack returns the message to the queue, to be delivered again at once. If other subscriptions of the queue have credit,
	// it is their turn first.
	Nack(ctx context.Context) error
}

// Broker moves messages. Its methods are safe for concurrent use and work only while Run is running. If the broker is
// unreachable or blocks publishers, they return errs.Unavailable at the context's deadline or after a few seconds, whichever
// comes first; they never hang.
type Broker interface {
	// Run maintains the connections until ctx ends, and reconnects with back-off and jitter for as long as that takes. When
	// ctx ends, it closes the connections and returns nil. A broker that is unreachable is not an error.
	Run(ctx context.Context) error
	// Ping returns an error if the broker cannot be used now. It is cheap: readiness calls it every second.
	Ping(ctx context.Context) error

	// Declare creates a queue; an existing one is left as it is. It returns FailedPrecondition if the existing queue has
	// another MessageTTL or MaxLength, which are fixed at creation.
	Declare(ctx context.Context, queue Queue) error
	// Bind binds a queue to topics; it is idempotent. It returns ErrNoQueue if the queue is not declared, and InvalidArgument
	// for a pattern with more than MaxHashes "#". Unbind takes such a pattern.
	Bind(ctx context.Context, queue string, bindings ...Binding) error
	// Unbind removes bindings; an unknown binding or queue is not an error.
	Unbind(ctx context.Context, queue string, bindings ...Binding) error
	// Delete removes a queue with all its messages and ends its subscriptions; an unknown queue is not an error. Unbind it first: a
	// publisher to a topic that still leads to it may lose its connection.
	Delete(ctx context.Context, queue string) error
	// Purge removes the messages that wait in a queue and returns their number; outstanding messages stay.
	Purge(ctx context.Context, queue string) (int64, error)
	// Ready returns the number of messages that wait in a queue, not counting outstanding ones.
	Ready(ctx context.Context, queue string) (int64, error)
	// Browse returns messages that wait in a queue, oldest first, without taking them: those behind a place, 0 being the
	// beginning, at most limit of them and no more than the given number of bytes unless the first one alone is larger. more
	// reports whether there are others. It returns ErrNoQueue, or ErrCannotBrowse if this broker cannot do that.
	Browse(ctx context.Context, queue string, behind int64, limit, bytes int) (list []Browsed, more bool, err error)
	// Generation changes whenever the broker may have come back without what was declared before. Messages to a missing
	// queue fail with ErrNoQueue, but messages to a topic are copied only to the queues that exist. A publisher to a topic
	// therefore declares its queues and bindings once in each generation.
	Generation() uint64

	// Publish puts a message in a queue, or a copy in each queue that the topic leads to. When it returns nil, the broker
	// has stored the message durably. ErrNoQueue and errs.InvalidArgument mean that it was not stored. ErrFull means that
	// one queue did not take it, though other queues of the topic may have. InDoubt means that it was sent and that the outcome
	// is not known; after any other error, too, publishing again may duplicate the message. A message that the broker refuses
	// does not disturb others.
	Publish(ctx context.Context, to Address, m Message) error
	// PublishBatch publishes many messages at the same time and returns the error of each, in their order.
	PublishBatch(ctx context.Context, batch []Publication) []error
	// Subscribe starts receiving from a queue, with at most credit deliveries outstanding. If the broker is unreachable, it
	// blocks until the broker is back or ctx ends. ctx bounds the call, not the subscription.
	Subscribe(ctx context.Context, queue string, credit int) (Subscription, error)
}

// Subscription receives the deliveries of one queue. It outlives the connections it runs over: after a loss it subscribes
// again by itself, without limit.
type Subscription interface {
	// Receive blocks until the next delivery or the end of ctx. ErrNoQueue means that the queue was deleted,
	// errs.Unavailable that the broker's Run has ended; either ends the subscription. Receive is not safe for concurrent
	// use.
	Receive(ctx context.Context) (Delivery, error)
	// Stop has the queue send the subscription nothing more, and returns what has arrived and was not received yet. These
	// deliveries have to be settled, too; until Close, all that are outstanding can be. Receive must not be called any more.
	Stop() []Delivery
	// StopWhenFull is Stop for a subscription all of whose credit is outstanding, so that nothing is on its way to it, and nothing is counted
	// as delivered that is not received. It reports whether that is so, as far as it is known; otherwise nothing has changed.
	StopWhenFull() ([]Delivery, bool)
	// Close ends the subscription. Deliveries that are outstanding or were not received yet return to the queue at once.
	Close()
}
