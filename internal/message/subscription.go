package message

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"plinth/internal/broker"
)

// Limits of a subscription's batches: what a client takes in one message of a stream.
const (
	maxBatch      = 100
	maxBatchBytes = 1 << 20
)

// settleTimeout bounds one ack or nack. One that takes longer is given up, and the message comes again.
const settleTimeout = 5 * time.Second

// Subscription receives messages of one queue for one consumer. Each message is leased to it: it comes again, to this
// consumer or another, unless it is settled before its ack deadline.
type Subscription struct {
	source      broker.Subscription
	log         *zap.Logger
	ackDeadline time.Duration
	received    chan broker.Delivery
	end         context.CancelFunc
	ended       error            // why there are no more; read after received is closed
	left        *broker.Delivery // received, but too large for the last batch

	mu     sync.Mutex
	leases map[string]*lease
	acking int           // acks on their way to the broker
	freed  chan struct{} // has a token after a message was settled
}

// lease is one outstanding message. When its timer fires, the message goes back.
type lease struct {
	delivery broker.Delivery
	timer    *time.Timer
	given    bool // back, after a delay: no longer the consumer's to settle
}

// Nack is one message that a consumer gives back, to come again after a delay.
type Nack struct {
	ID     string
	Delay  time.Duration
	Reason string
}

// Subscribe starts to receive from a queue. At most maxOutstanding messages are leased at a time, each for ackDeadline.
// Errors: NotFound.
func (s *Service) Subscribe(ctx context.Context, queue QueueName, maxOutstanding int, ackDeadline time.Duration) (*Subscription, error) {
	var source broker.Subscription
	err := known(ctx, queue, s.declare, func() (err error) {
		source, err = s.broker.Subscribe(ctx, queue.onBroker(), maxOutstanding)
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	sub := &Subscription{
		source: source, log: s.log.With(zap.Stringer("queue", queue)), ackDeadline: ackDeadline,
		received: make(chan broker.Delivery, maxOutstanding), end: cancel,
		leases: map[string]*lease{}, freed: make(chan struct{}, 1),
	}
	go sub.receive(ctx)
	return sub, nil
}

func (s *Subscription) receive(ctx context.Context) {
	defer close(s.received)
	for {
		d, err := s.source.Receive(ctx)
		if err != nil {
			s.ended = err
			return
		}
		select {
		case s.received <- d:
		case <-ctx.Done():
			s.ended = ctx.Err()
			return
		}
	}
}

// Next waits for messages until ctx ends, and leases what has come: up to 100 messages and 1 MiB, or one larger message.
// Errors: NotFound when the queue was deleted, Unavailable when the service stops. Not for concurrent use.
func (s *Subscription) Next(ctx context.Context) ([]Message, error) {
	d, err := s.first(ctx)
	if err != nil {
		return nil, err
	}
	var batch []Message
	bytes := 0
	for {
		m := fromBroker(d)
		if bytes += m.size(); len(batch) > 0 && bytes > maxBatchBytes {
			s.left = &d
			return batch, nil
		}
		s.lease(d)
		if batch = append(batch, m); len(batch) == maxBatch {
			return batch, nil
		}
		var more bool
		select {
		case d, more = <-s.received:
		default:
		}
		if !more {
			return batch, nil
		}
	}
}

func (s *Subscription) first(ctx context.Context) (broker.Delivery, error) {
	if d := s.left; d != nil {
		s.left = nil
		return *d, nil
	}
	select {
	case d, more := <-s.received:
		if !more {
			return d, s.ended
		}
		return d, nil
	case <-ctx.Done():
		return broker.Delivery{}, ctx.Err()
	}
}

func (s *Subscription) lease(d broker.Delivery) {
	l := &lease{delivery: d}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.leases[d.ID]; old != nil {
		old.timer.Stop() // Its connection was lost, and this is the redelivery.
	}
	s.leases[d.ID] = l
	l.timer = time.AfterFunc(s.ackDeadline, func() { s.expire(l) })
}

// expire gives a message back whose time is over.
func (s *Subscription) expire(l *lease) {
	s.mu.Lock()
	current := s.leases[l.delivery.ID] == l
	if current {
		s.drop(l)
	}
	s.mu.Unlock()
	if current {
		s.settle(l.delivery.Nack, l.delivery.ID)
	}
}

// drop ends a lease; the caller holds the lock.
func (s *Subscription) drop(l *lease) {
	l.timer.Stop()
	delete(s.leases, l.delivery.ID)
	s.free()
}

func (s *Subscription) free() {
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// held finds the lease of a message that is the consumer's to settle; the caller holds the lock.
func (s *Subscription) held(id string) *lease {
	if l := s.leases[id]; l != nil && !l.given {
		return l
	}
	return nil
}

// Ack says that messages were handled, and returns when the broker knows. Ids that are not
// outstanding are ignored. Not for concurrent use.
func (s *Subscription) Ack(ids []string) {
	var settling sync.WaitGroup
	for _, l := range s.take(ids) {
		settling.Go(func() { s.settle(l.delivery.Ack, l.delivery.ID) })
	}
	settling.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acking = 0
	s.free()
}

// take ends the leases of messages that are the consumer's to acknowledge.
func (s *Subscription) take(ids []string) (taken []*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l := s.held(id); l != nil {
			s.drop(l)
			taken = append(taken, l)
		}
	}
	s.acking = len(taken)
	return taken
}

// Nack gives messages back. One with a delay stays here, and in the credit, until it is over.
func (s *Subscription) Nack(items []Nack) {
	for _, item := range items {
		s.mu.Lock()
		l := s.held(item.ID)
		if l != nil {
			l.given = true
			l.timer.Reset(item.Delay)
			s.free()
		}
		s.mu.Unlock()
		if l != nil {
			s.log.Info("message given back", zap.String("id", item.ID), zap.Int("attempt", l.delivery.Attempt),
				zap.Duration("delay_ms", item.Delay), zap.String("reason", item.Reason))
		}
	}
}

// Extend gives outstanding messages a new ack deadline, from now; 0 is the subscription's own.
func (s *Subscription) Extend(ids []string, ackDeadline time.Duration) {
	if ackDeadline == 0 {
		ackDeadline = s.ackDeadline
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l := s.held(id); l != nil {
			l.timer.Reset(ackDeadline)
		}
	}
}

// Settled waits until nothing is left for the consumer to settle, or ctx ends.
func (s *Subscription) Settled(ctx context.Context) {
	for {
		s.mu.Lock()
		left := s.acking
		for _, l := range s.leases {
			if !l.given {
				left++
			}
		}
		s.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-s.freed:
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the subscription. What is outstanding goes back at once.
func (s *Subscription) Close() {
	s.end()
	s.source.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		s.drop(l)
	}
}

func (s *Subscription) settle(how func(context.Context) error, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := how(ctx); err != nil {
		s.log.Warn("settling failed, the message will come again", zap.String("id", id), zap.Error(err))
	}
}
