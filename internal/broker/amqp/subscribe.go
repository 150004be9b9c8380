package amqp

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

// cancelTimeout bounds how long Close waits for a subscription to be cancelled. A busy RabbitMQ takes its time.
const cancelTimeout = 3 * time.Second

// ackGrace is how long a channel stays open if something was settled on it after Stop.
const ackGrace = time.Second

// refillTime is how long the queue may take to use credit: all that it has at the beginning, and one after each ack.
const refillTime = 100 * time.Millisecond

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
		unreceived: make(chan []broker.Delivery, 1),
		whenFull:   make(chan chan bool),
	}
	s.life, s.end = context.WithCancelCause(b.life)
	s.taking, s.stopTaking = context.WithCancel(s.life)
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
	taking     context.Context
	stopTaking context.CancelFunc     // ends taking: nothing more is to come from the queue
	unreceived chan []broker.Delivery // what a channel had when taking ended
	whenFull   chan chan bool         // StopWhenFull was called, and wants to know whether it was full
	asked      atomic.Bool            // Stop was called
	settles    atomic.Bool            // something was settled after taking had ended

	cancelling  sync.RWMutex // held for writing while the consumer is cancelled, for reading while something is settled
	outstanding atomic.Int64 // deliveries of the channel that are not settled
	freed       atomic.Int64 // when there was last more credit for the queue to use, in nanoseconds since 1970
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

// Stop implements broker.Subscription.
func (s *subscription) Stop() []broker.Delivery {
	if s.asked.Swap(true) {
		return nil
	}
	s.stopTaking()
	select {
	case unreceived := <-s.unreceived:
		return unreceived
	case <-s.stopped:
	case <-time.After(cancelTimeout):
	}
	return nil
}

// StopWhenFull implements broker.Subscription. Nothing can be settled while it is looked whether nothing is on its way.
func (s *subscription) StopWhenFull() ([]broker.Delivery, bool) {
	was := make(chan bool, 1)
	select {
	case s.whenFull <- was:
	case <-s.stopped:
		return nil, false
	case <-time.After(cancelTimeout):
		return nil, false
	}
	select {
	case full := <-was:
		if !full {
			return nil, false
		}
		return s.Stop(), true
	case <-s.stopped:
		return nil, false
	}
}

// run consumes until the subscription ends.
func (s *subscription) run() {
	defer observe.LogPanic(s.logger)
	defer close(s.stopped)
	defer func() { s.broker.leave(s.link) }()
	backoff := loop.Backoff{Min: minBackoff, Max: maxBackoff}
	defer s.stopTaking()
	for s.taking.Err() == nil {
		conn, err := s.link.wait(s.taking)
		if err != nil {
			return // Nothing more is to come; wait has no other error.
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
		case s.taking.Err() != nil:
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
		s.outstanding.Store(0) // What came over another channel is nobody's any more.
		s.freed.Store(time.Now().UnixNano())
		const autoAck, exclusive, noLocal, noWait = false, false, false, false
		deliveries, err := channel.Consume(s.queue, consumerTag, autoAck, exclusive, noLocal, noWait, nil)
		if err != nil {
			return err
		}
		if !s.hasStarted() {
			close(s.started)
		}
		err = s.forward(channel, deliveries, closed, cancelled)
		if s.settles.Load() && err == nil {
			// The channel passes acks on as fast as the queue takes them, and forgets the others when it is closed: their messages
			// would come again. Other subscriptions end with a cancellation, which the queue answers after them.
			loop.Sleep(context.Background(), ackGrace)
		}
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
	in, out, taking := deliveries, chan<- broker.Delivery(nil), s.taking.Done()
	for {
		select {
		case d, open := <-in:
			in = nil
			if open {
				next, out = s.delivery(channel, &d), s.deliveries
			}
		case out <- next:
			in, out = deliveries, nil
		case <-taking:
			if s.life.Err() != nil {
				return nil
			}
			// From here on, the channel is only for settling.
			unreceived, _, err := s.cancel(channel, deliveries, false)
			if err != nil {
				return err
			}
			if out != nil {
				unreceived = append([]broker.Delivery{next}, unreceived...)
			}
			s.unreceived <- unreceived
			in, out, taking = nil, nil, nil
		case was := <-s.whenFull:
			if taking == nil || out != nil { // It was stopped before, or has one that nobody has received.
				was <- false
				continue
			}
			unreceived, full, err := s.cancel(channel, deliveries, true)
			if err != nil {
				return err
			}
			if full {
				s.unreceived <- unreceived
				s.stopTaking()
				in, out, taking = nil, nil, nil
			}
			was <- full
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

// cancel has the queue send nothing more, and returns what it had sent.
//
// RabbitMQ answers a cancellation before it passes on what the queue has sent meanwhile, and the library drops what comes after the
// answer: it would be delivered again, as an attempt that nobody saw. So the consumer is cancelled when it has all that it has credit for,
// or, unless it is to be full, when the queue has had the time to use it. A message that is published at this very moment may still be
// dropped.
func (s *subscription) cancel(channel *amqp091.Channel, deliveries <-chan amqp091.Delivery, whenFull bool) (
	unreceived []broker.Delivery, cancelled bool, err error,
) {
	s.cancelling.Lock()
	defer s.cancelling.Unlock()
	if whenFull && s.outstanding.Load() < int64(s.credit) {
		return nil, false, nil
	}
	for s.outstanding.Load() < int64(s.credit) {
		left := time.Until(time.Unix(0, s.freed.Load()).Add(refillTime))
		if left <= 0 {
			break
		}
		select {
		case d, open := <-deliveries:
			if !open {
				return nil, false, amqp091.ErrClosed
			}
			unreceived = append(unreceived, s.delivery(channel, &d))
		case <-time.After(left):
		case <-s.life.Done():
		}
		if s.life.Err() != nil {
			break
		}
	}
	if err := channel.Cancel(consumerTag, false); err != nil {
		return nil, false, err
	}
	for d := range deliveries { // The library closes it after the last one.
		unreceived = append(unreceived, s.delivery(channel, &d))
	}
	return unreceived, true, nil
}

func (s *subscription) delivery(channel *amqp091.Channel, d *amqp091.Delivery) broker.Delivery {
	s.outstanding.Add(1)
	return broker.Delivery{
		Message: received(d),
		Attempt: attempt(d),
		Settler: &settler{sub: s, channel: channel, tag: d.DeliveryTag},
	}
}

// settler settles one delivery on the channel that it came over, and never on another: tags are counted per channel, so the
// same tag there would be another message.
type settler struct {
	sub     *subscription
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
// not counted as an attempt. RabbitMQ serves the consumers of a queue in turn, so this one is the last to get the message.
func (s *settler) Nack(context.Context) error {
	const requeue = true
	return s.settle(func() error { return s.channel.Reject(s.tag, requeue) })
}

func (s *settler) settle(send func() error) error {
	if s.settled.Swap(true) {
		return nil
	}
	if s.sub.life.Err() != nil || s.channel.IsClosed() {
		return errStale
	}
	s.sub.cancelling.RLock()
	defer s.sub.cancelling.RUnlock()
	if s.sub.taking.Err() != nil {
		s.sub.settles.Store(true)
	}
	s.sub.outstanding.Add(-1)
	s.sub.freed.Store(time.Now().UnixNano())
	if err := send(); err != nil {
		return errs.Wrap(err, errs.Unavailable, "the connection to RabbitMQ was lost while settling a delivery")
	}
	return nil
}
