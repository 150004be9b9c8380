package amqp

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
)

// cancelTimeout bounds how long Close waits for a subscription to be cancelled. A busy RabbitMQ takes its time.
const cancelTimeout = 3 * time.Second

// consumerTag names the one consumer of a channel.
const consumerTag = "plinth"

var (
	errClosed = errs.New(errs.Canceled, "the subscription is closed")
	errStale  = errs.New(errs.Unavailable, "the delivery was lost with its connection or subscription, and comes again")
)

// Subscribe implements broker.Broker. Credit must be at least 1; more than 65,535 is treated as 65,535.
func (b *Broker) Subscribe(ctx context.Context, queue string, credit int) (broker.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkQueue(queue); err != nil {
		return nil, err
	}
	if credit < 1 {
		return nil, errs.New(errs.InvalidArgument, "credit is at least 1")
	}
	s := &subscription{
		queue:      queue,
		credit:     min(credit, math.MaxUint16),
		broker:     b,
		link:       b.place(),
		logger:     b.logger,
		deliveries: make(chan broker.Delivery),
		started:    make(chan struct{}),
		stopped:    make(chan struct{}),
	}
	s.life, s.end = context.WithCancelCause(b.life)
	go s.run()
	select {
	case <-s.started:
		return s, nil
	case <-s.life.Done():
		return nil, context.Cause(s.life)
	case <-ctx.Done():
		s.end(errClosed)
		return nil, expired(ctx, "RabbitMQ is away")
	}
}

// subscription consumes from a queue, on one channel after another.
type subscription struct {
	queue      string
	credit     int
	broker     *Broker
	link       *link // used only by the goroutine of run
	logger     *zap.Logger
	life       context.Context // its cause is why the subscription has ended
	end        context.CancelCauseFunc
	deliveries chan broker.Delivery
	started    chan struct{} // closed when the first channel consumes
	stopped    chan struct{} // closed when the last channel is closed
}

// Receive implements broker.Subscription.
func (s *subscription) Receive(ctx context.Context) (broker.Delivery, error) {
	if s.life.Err() != nil {
		return broker.Delivery{}, context.Cause(s.life)
	}
	select {
	case d := <-s.deliveries:
		return d, nil
	case <-s.life.Done():
		return broker.Delivery{}, context.Cause(s.life)
	case <-ctx.Done():
		return broker.Delivery{}, ctx.Err()
	}
}

// Close implements broker.Subscription. From then on nothing can be settled. It waits, for a short time at most, until the
// queue sends the subscription nothing more: whatever the queue still sends comes back, but counts as a delivery.
func (s *subscription) Close() {
	s.end(errClosed)
	select {
	case <-s.stopped:
	case <-time.After(cancelTimeout):
	}
}

// run consumes until the subscription ends.
func (s *subscription) run() {
	defer close(s.stopped)
	defer func() { s.broker.leave(s.link) }()
	backoff := loop.Backoff{Min: minBackoff, Max: maxBackoff}
	for s.life.Err() == nil {
		conn, err := s.link.wait(s.life)
		if err != nil {
			return // The subscription has ended; wait has no other error.
		}
		if link := s.broker.move(s.link); link != s.link {
			s.link = link
			continue
		}
		began := time.Now()
		err = classify(s.consume(conn))
		switch {
		case errors.Is(err, broker.ErrNoQueue):
			s.end(err)
		case s.life.Err() != nil:
		case conn.IsClosed():
			backoff.Reset() // The link has a back-off of its own.
		default:
			if time.Since(began) > maxBackoff {
				backoff.Reset()
			}
			s.logger.Warn("RabbitMQ ended the subscription's channel, subscribing again",
				zap.String("queue", s.queue), zap.Error(err))
			loop.Sleep(s.life, backoff.Next())
		}
	}
}

// hasStarted reports whether a channel has begun to consume. Only the goroutine of run may call it.
func (s *subscription) hasStarted() bool {
	select {
	case <-s.started:
		return true
	default:
		return false
	}
}

// consume receives over one channel until the channel is lost or the subscription ends. Its error is nil only if the
// subscription has ended.
func (s *subscription) consume(conn *amqp091.Connection) error {
	return onChannel(conn, func(channel *amqp091.Channel) error {
		if err := channel.Qos(s.credit, 0, false); err != nil {
			return err
		}
		closed := channel.NotifyClose(make(chan *amqp091.Error, 1))
		cancelled := channel.NotifyCancel(make(chan string, 1))
		const autoAck, exclusive, noLocal, noWait = false, false, false, false
		deliveries, err := channel.Consume(s.queue, consumerTag, autoAck, exclusive, noLocal, noWait, nil)
		if err != nil {
			return err
		}
		if !s.hasStarted() {
			close(s.started)
		}
		err = s.forward(channel, deliveries, closed, cancelled)
		// A quorum queue learns of a channel's end only after the client has seen the channel closed, and may
		// deliver messages to it until then: each would come back with an attempt that nobody saw. The queue itself answers
		// the cancellation.
		_ = channel.Cancel(consumerTag, noWait) // If it fails, closing the channel ends the consumer.
		return err
	})
}

// forward passes the deliveries of a channel to Receive, one at a time. The others wait in the library, which holds no more
// than the prefetch.
func (s *subscription) forward(channel *amqp091.Channel, deliveries <-chan amqp091.Delivery,
	closed <-chan *amqp091.Error, cancelled <-chan string) error {
	var next broker.Delivery
	in, out := deliveries, chan<- broker.Delivery(nil)
	for {
		select {
		case d, open := <-in:
			in = nil
			if open {
				next, out = s.delivery(channel, &d), s.deliveries
			}
		case out <- next:
			in, out = deliveries, nil
		case _, open := <-cancelled:
			if open {
				return broker.ErrNoQueue // RabbitMQ cancels the consumers of a queue that is deleted.
			}
			cancelled = nil
		case err := <-closed:
			return closeReason(err)
		case <-s.life.Done():
			return nil
		}
	}
}

func (s *subscription) delivery(channel *amqp091.Channel, d *amqp091.Delivery) broker.Delivery {
	return broker.Delivery{
		Message: received(d),
		Attempt: attempt(d),
		Settler: &settler{life: s.life, channel: channel, tag: d.DeliveryTag},
	}
}

// settler settles one delivery on the channel that it came over, and never on another: tags are counted per channel, so the
// same tag there would be another message.
type settler struct {
	life    context.Context // the subscription's
	channel *amqp091.Channel
	tag     uint64
	settled atomic.Bool
}

// Ack implements broker.Settler. RabbitMQ sends no answer: a nil error means only that the ack is on its way. Ack waits for
// nothing but a write to the socket, which takes a few seconds at most.
func (s *settler) Ack(context.Context) error {
	return s.settle(func() error { return s.channel.Ack(s.tag, false) })
}

// Nack implements broker.Settler, with the same guarantees as Ack. It uses AMQP's reject: since RabbitMQ 4.3, AMQP's nack is
// not counted as an attempt.
func (s *settler) Nack(context.Context) error {
	const requeue = true
	return s.settle(func() error { return s.channel.Reject(s.tag, requeue) })
}

func (s *settler) settle(send func() error) error {
	if s.settled.Swap(true) {
		return nil
	}
	if s.life.Err() != nil || s.channel.IsClosed() {
		return errStale
	}
	if err := send(); err != nil {
		return errs.Wrap(err, errs.Unavailable, "the connection to RabbitMQ was lost while settling a delivery")
	}
	return nil
}
