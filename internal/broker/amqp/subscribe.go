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

// cancelTimeout bounds the goodbye of a subscription. A busy RabbitMQ takes its time.
const cancelTimeout = 3 * time.Second

// consumerTag names the one consumer of a channel.
const consumerTag = "plinth"

var (
	errClosed = errs.New(errs.Canceled, "the subscription is closed")
	errStale  = errs.New(errs.Unavailable, "the delivery was lost with its connection or subscription, and comes again")
)

// Subscribe implements broker.Broker. Credit is at least 1; above 65,535 it counts as that.
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

// subscription consumes from a queue, on one channel after the other.
type subscription struct {
	queue      string
	credit     int
	broker     *Broker
	link       *link // for the goroutine of run alone
	logger     *zap.Logger
	life       context.Context // its cause tells why the subscription has ended
	end        context.CancelCauseFunc
	deliveries chan broker.Delivery
	started    chan struct{} // closed when the first channel consumes
	stopped    chan struct{} // closed when the last channel is
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

// Close implements broker.Subscription. From now on nothing can be settled. It waits until the queue gives the subscription no
// more, for a moment at most: what it gave comes back, but it counts as a delivery.
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

// hasStarted is for the goroutine of run alone.
func (s *subscription) hasStarted() bool {
	select {
	case <-s.started:
		return true
	default:
		return false
	}
}

// consume receives over one channel, until that is lost or the subscription ends. Its error is never nil, but where the
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
		// A quorum queue hears of a channel's end only after the channel was told that it is closed, and may give it messages until
		// then: each would come back with an attempt that nobody saw. It answers to this itself.
		_ = channel.Cancel(consumerTag, noWait) // What it does not answer to, the end of the channel ends.
		return err
	})
}

// forward hands the deliveries of a channel to Receive, one at a time: the others wait in the library, which holds no
// more than the prefetch.
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

// settler settles one delivery on the channel that it came over, and never on another: tags are counted by channel, and
// the same tag there is another message.
type settler struct {
	life    context.Context // the subscription's
	channel *amqp091.Channel
	tag     uint64
	settled atomic.Bool
}

// Ack implements broker.Settler. RabbitMQ answers nothing: a nil error says that the ack is on its way. It waits for no
// more than a write to the socket, which takes a few seconds at most.
func (s *settler) Ack(context.Context) error {
	return s.settle(func() error { return s.channel.Ack(s.tag, false) })
}

// Nack implements broker.Settler, as Ack does. It is AMQP's reject: its nack is not counted since RabbitMQ 4.3.
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
