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
	"plinth/internal/observe"
)

// Limits of a subscription's batches, so that clients accept a batch as one message of a stream.
const (
	maxBatch      = 100
	maxBatchBytes = 1 << 20
)

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
	life        context.Context
	end         context.CancelFunc
	ended       error         // why no more messages come; read after done is closed
	done        chan struct{} // closed when no more messages are received
	arrived     chan struct{} // has a token after a message was received

	busy sync.Mutex // held while Ack or Nack settles

	mu       sync.Mutex
	leases   map[string]*lease
	pending  []*lease      // received, and not taken by Next; those that are not in leases any more have expired
	stopping bool          // what is outstanding at the end does not count
	settling int           // messages that Ack or Nack settles now
	freed    chan struct{} // has a token after a message was settled
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
	src, err := s.open(ctx, life, queue, min(maxOutstanding, firstCredit))
	if err != nil {
		end()
		return nil, err
	}
	src.held.most = int64(maxOutstanding)
	sub := &Subscription{
		service: s, source: src, log: s.log, count: s.rates.of(src.tenantQueue), ackDeadline: ackDeadline,
		life: life, end: end, done: make(chan struct{}), arrived: make(chan struct{}, 1),
		leases: map[string]*lease{}, freed: make(chan struct{}, 1),
	}
	src.pending = sub.dropPending
	go sub.receive()
	return sub, nil
}

// receive leases what the broker sends, up to the credit, whether the consumer asks for it or not.
func (s *Subscription) receive() {
	defer observe.LogPanic(s.log)
	defer close(s.done)
	for {
		d, err := s.source.Receive()
		if err != nil {
			s.ended = err
			return
		}
		l := &lease{delivery: d, message: fromBroker(d)}
		if !s.deliverable(s.life, l) {
			continue
		}
		s.lease(l)
		loop.Signal(s.arrived)
	}
}

// Next blocks until there are messages or ctx ends, and gives what has arrived to the consumer: up to 100 messages and
// 1 MiB, or one larger message. Errors: NotFound if the queue was deleted, Unavailable if the service stops. It must not be
// called concurrently.
func (s *Subscription) Next(ctx context.Context) ([]Message, error) {
	for {
		if err := ctx.Err(); err != nil { // Also where a message is there already.
			return nil, err
		}
		if paused, _ := s.service.pauses.of(s.source.tenantQueue); paused {
			s.source.giveBack(s.dropPending()...)
		}
		ended := s.hasEnded()
		if batch := s.takePending(); len(batch) > 0 {
			s.count.delivered.Add(int64(len(batch)))
			return batch, nil
		}
		if ended {
			return nil, s.ended
		}
		select {
		case <-s.arrived:
		case <-s.done:
		case <-ctx.Done():
		}
	}
}

func (s *Subscription) hasEnded() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// takePending returns the next batch of messages whose leases have not expired.
func (s *Subscription) takePending() (batch []Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := 0
	for len(s.pending) > 0 && len(batch) < maxBatch {
		l := s.pending[0]
		if s.leases[l.message.ID] == l {
			if bytes += l.message.size(); len(batch) > 0 && bytes > maxBatchBytes {
				break
			}
			l.given = true
			batch = append(batch, l.message)
		}
		s.pending[0] = nil
		s.pending = s.pending[1:]
	}
	return batch
}

// Undelivered reports that a batch of Next did not reach the consumer. Its attempts do not count.
func (s *Subscription) Undelivered(batch []Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range batch {
		if l := s.leases[m.ID]; l != nil {
			l.given = false
		}
	}
}

// Stopping reports that the service ends the subscription: what is outstanding when it is closed does not count as
// attempts.
func (s *Subscription) Stopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
}

// dropPending ends the leases of what was received and not given to the consumer, and returns the deliveries.
func (s *Subscription) dropPending() (back []broker.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.pending {
		if s.leases[l.message.ID] == l {
			s.endLease(l)
			back = append(back, l.delivery)
		}
	}
	s.pending = nil
	return back
}

// deliverable reports whether a message may be delivered to the consumer. Otherwise it settles the message, which becomes a
// dead letter because it was delivered too often without being settled. While Postgres is away, that limit does not apply.
func (s *Subscription) deliverable(ctx context.Context, l *lease) bool {
	queue := s.source.queue
	ctx = auth.AsService(ctx, s.source.tenant) // Act for the queue's tenant, whoever consumes.
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
			defer observe.LogPanic(s.log)
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
	<-s.done
	s.source.stop(s.endLeases()...)
	s.source.Close()
}

func (s *Subscription) settle(how func(context.Context) error, id string) bool {
	defer observe.LogPanic(s.log)
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	err := how(ctx)
	if err != nil {
		s.log.Warn("settling failed, the message will come again", zap.Inline(s.source.tenantQueue), zap.String("id", id), zap.Error(err))
	}
	return err == nil
}
