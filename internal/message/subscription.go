package message

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/loop"
)

// Limits of a subscription's batches, so that clients accept a batch as one message of a stream.
const (
	maxBatch      = 100
	maxBatchBytes = 1 << 20
)

// aheadBatch is how many messages a subscription takes from the broker before they are asked for. It is small because
// there may be very many subscriptions, most of them idle.
const aheadBatch = 16

// settleTimeout bounds one ack, nack or failed attempt. After that it is given up, and the message comes again.
const settleTimeout = 5 * time.Second

// Subscription receives messages of one queue for one consumer. Each message is leased to the consumer: unless it is
// settled before its ack deadline, it is delivered again, to this consumer or another. While the queue is paused, nothing
// is delivered.
type Subscription struct {
	service     *Service
	source      *source
	log         *zap.Logger
	count       *counters
	ackDeadline time.Duration
	received    chan broker.Delivery
	life        context.Context
	end         context.CancelFunc
	ended       error  // why no more messages come; read after received is closed
	leftover    *lease // received, but too large for the last batch

	busy sync.Mutex // held while Ack or Nack settles

	mu       sync.Mutex
	leases   map[string]*lease
	settling int           // messages that Ack or Nack settles now
	freed    chan struct{} // has a token after a message was settled
}

// lease is one outstanding message. When its timer fires, the message goes back to the queue.
type lease struct {
	delivery broker.Delivery
	message  Message
	timer    *time.Timer
}

// Nack is one message that a consumer gives back because its attempt failed.
type Nack struct {
	ID     string
	Delay  *time.Duration // before it comes again; nil means the queue's back-off
	Reason string         // for people
}

// Consume starts to receive from a queue of the tenant that ctx acts for. At most maxOutstanding messages are leased at a
// time, each for ackDeadline. Errors: NotFound.
func (s *Service) Consume(ctx context.Context, queue QueueName, maxOutstanding int, ackDeadline time.Duration) (*Subscription, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	src, err := s.open(ctx, life, queue, maxOutstanding)
	if err != nil {
		end()
		return nil, err
	}
	sub := &Subscription{
		service: s, source: src, log: s.log, count: s.rates.of(src.tenantQueue), ackDeadline: ackDeadline,
		received: make(chan broker.Delivery, min(maxOutstanding, aheadBatch)), life: life, end: end,
		leases: map[string]*lease{}, freed: make(chan struct{}, 1),
	}
	go sub.receive()
	return sub, nil
}

func (s *Subscription) receive() {
	defer close(s.received)
	for {
		d, err := s.source.Receive()
		if err != nil {
			s.ended = err
			return
		}
		select {
		case s.received <- d:
		case <-s.life.Done():
			s.ended = s.life.Err()
			return
		}
	}
}

// Next blocks until there are messages or ctx ends, and leases what has arrived: up to 100 messages and 1 MiB, or one
// larger message. Errors: NotFound if the queue was deleted, Unavailable if the service stops. It must not be called
// concurrently.
func (s *Subscription) Next(ctx context.Context) ([]Message, error) {
	if err := ctx.Err(); err != nil { // Also where a message is there already.
		return nil, err
	}
	l, err := s.first(ctx)
	if err != nil {
		return nil, err
	}
	var batch []Message
	for bytes := 0; l != nil; l = s.another(ctx) {
		if bytes += l.message.size(); len(batch) > 0 && bytes > maxBatchBytes {
			s.leftover = l
			break
		}
		s.lease(l)
		if batch = append(batch, l.message); len(batch) == maxBatch {
			break
		}
	}
	s.count.delivered.Add(int64(len(batch)))
	return batch, nil
}

// first blocks until there is a message for the consumer.
func (s *Subscription) first(ctx context.Context) (*lease, error) {
	if l := s.leftover; l != nil {
		if s.leftover = nil; s.deliverable(ctx, l) {
			return l, nil
		}
	}
	for {
		select {
		case d, more := <-s.received:
			if !more {
				return nil, s.ended
			}
			if l := newLease(d); s.deliverable(ctx, l) {
				return l, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// another returns the next message for the consumer, or nil if none has arrived.
func (s *Subscription) another(ctx context.Context) *lease {
	for {
		select {
		case d, more := <-s.received:
			if !more {
				return nil
			}
			if l := newLease(d); s.deliverable(ctx, l) {
				return l
			}
		default:
			return nil
		}
	}
}

// deliverable reports whether a message may be delivered to the consumer. Otherwise it settles the message: the message
// goes back to the queue if that was paused meanwhile, and becomes a dead letter if it was delivered too often without
// being settled. While Postgres is away, that limit does not apply.
func (s *Subscription) deliverable(ctx context.Context, l *lease) bool {
	queue := s.source.queue
	ctx = auth.AsService(ctx, s.source.tenant) // Act for the queue's tenant, whoever calls Next.
	if paused, _ := s.service.pauses.of(s.source.tenantQueue); paused {
		s.settle(l.delivery.Nack, l.message.ID)
		return false
	}
	if l.delivery.Attempt == 1 {
		return true
	}
	most, err := selectMaxAttempts(ctx, s.service.db, queue)
	if err != nil || l.message.Attempt <= most {
		return true
	}
	f := cutShort(l.message)
	f.permanent = true
	if s.service.fail(ctx, queue, f) != nil {
		return true
	}
	s.settle(l.delivery.Ack, l.message.ID)
	return false
}

func newLease(d broker.Delivery) *lease { return &lease{delivery: d, message: fromBroker(d)} }

// lease starts a lease. If the message is leased already, by a delivery whose connection was lost, that lease ends.
func (s *Subscription) lease(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.leases[l.message.ID]; old != nil {
		old.timer.Stop()
		go s.settle(old.delivery.Nack, l.message.ID)
	}
	s.startLease(l)
}

// startLease starts a lease and its timer. The caller must hold s.mu.
func (s *Subscription) startLease(l *lease) {
	s.leases[l.message.ID] = l
	l.timer = time.AfterFunc(s.ackDeadline, func() { s.expire(l) })
}

// expire gives a message back when its ack deadline has passed.
func (s *Subscription) expire(l *lease) {
	s.mu.Lock()
	current := s.leases[l.message.ID] == l
	if current {
		s.endLease(l)
	}
	s.mu.Unlock()
	if current {
		s.settle(l.delivery.Nack, l.message.ID)
	}
}

// endLease ends a lease. The caller must hold s.mu.
func (s *Subscription) endLease(l *lease) {
	l.timer.Stop()
	delete(s.leases, l.message.ID)
	s.signalFreed()
}

func (s *Subscription) signalFreed() { loop.Signal(s.freed) }

// Ack acknowledges messages, and returns when the broker has recorded it. Ids that are not outstanding are ignored.
func (s *Subscription) Ack(ids []string) {
	s.busy.Lock()
	defer s.busy.Unlock()
	taken := s.beginSettling(ids)
	defer s.endSettling()
	s.count.acknowledged.Add(s.ack(taken))
}

// ack acknowledges deliveries to the broker, and returns for how many it succeeded.
func (s *Subscription) ack(taken []*lease) int64 {
	var settling sync.WaitGroup
	var acked atomic.Int64
	for _, l := range taken {
		settling.Go(func() {
			if s.settle(l.delivery.Ack, l.message.ID) {
				acked.Add(1)
			}
		})
	}
	settling.Wait()
	return acked.Load()
}

// beginSettling ends the leases of outstanding messages that are about to be settled. The caller must call endSettling
// afterwards.
func (s *Subscription) beginSettling(ids []string) (taken []*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l := s.leases[id]; l != nil {
			s.endLease(l)
			taken = append(taken, l)
		}
	}
	s.settling += len(taken)
	return taken
}

func (s *Subscription) endSettling() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settling = 0
	s.signalFreed()
}

// Nack records that attempts failed, and returns when that is committed: the messages come again, or become dead letters.
// While Postgres is away, they stay outstanding for another ack deadline. Ids that are not outstanding are ignored.
func (s *Subscription) Nack(items []Nack) {
	s.busy.Lock()
	defer s.busy.Unlock()
	defer s.endSettling()
	for len(items) > 0 && s.life.Err() == nil {
		items = items[s.nack(items):]
	}
}

// nack moves the messages of as many items as fit into a transaction, and returns how many items that were.
func (s *Subscription) nack(items []Nack) (n int) {
	var taken []*lease
	var failures []*failure
	for bytes := 0; n < len(items) && len(taken) < maxBatch && bytes < maxBatchBytes; n++ {
		for _, l := range s.beginSettling([]string{items[n].ID}) {
			bytes += l.message.size()
			taken = append(taken, l)
			failures = append(failures, &failure{message: l.message, delay: items[n].Delay, reason: items[n].Reason})
		}
	}
	if len(taken) == 0 {
		return n
	}
	// Close waits for this, so that messages which were moved are acknowledged too.
	if err := s.service.fail(context.WithoutCancel(s.life), s.source.queue, failures...); err != nil {
		s.log.Warn("messages cannot be moved, they stay outstanding", zap.Inline(s.source.tenantQueue), zap.Error(err))
		s.restore(taken)
		return n
	}
	for _, f := range failures {
		s.log.Info("message given back", zap.Inline(&line{queue: s.source.tenantQueue, message: f.message, failure: f}))
	}
	s.ack(taken)
	return n
}

// restore leases messages that could not be settled again, with a new ack deadline.
func (s *Subscription) restore(taken []*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range taken {
		if s.leases[l.message.ID] == nil {
			s.startLease(l)
		} else { // It was delivered again meanwhile.
			go s.settle(l.delivery.Nack, l.message.ID)
		}
	}
}

// Extend sets a new ack deadline for outstanding messages, counted from now; 0 means that of the subscription.
func (s *Subscription) Extend(ids []string, ackDeadline time.Duration) {
	if ackDeadline == 0 {
		ackDeadline = s.ackDeadline
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l := s.leases[id]; l != nil {
			l.timer.Reset(ackDeadline)
		}
	}
}

// Settled blocks until the consumer has nothing left to settle, or ctx ends.
func (s *Subscription) Settled(ctx context.Context) {
	for {
		s.mu.Lock()
		left := s.settling + len(s.leases)
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

// Close ends the subscription. Outstanding messages go back to the queue at once.
func (s *Subscription) Close() {
	s.end()
	s.busy.Lock()
	defer s.busy.Unlock()
	for range s.received { // Wait until receive has ended. What it received goes back too.
		continue
	}
	s.source.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		s.endLease(l)
	}
}

func (s *Subscription) settle(how func(context.Context) error, id string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	err := how(ctx)
	if err != nil {
		s.log.Warn("settling failed, the message will come again", zap.Inline(s.source.tenantQueue), zap.String("id", id), zap.Error(err))
	}
	return err == nil
}
