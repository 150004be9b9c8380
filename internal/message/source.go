package message

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

// pauseRead bounds how long a subscription waits for what it reads in Postgres: whether its queue is paused, and its queue.
// After that it goes on with what was read before.
const pauseRead = time.Second

// source receives from a queue while it is not paused. During a pause it receives nothing: outstanding deliveries can be
// settled, and whatever else the broker has sent goes back to the queue at once. Each delivery must be settled once, or
// given back. The contexts of a source act for the queue's tenant.
type source struct {
	service *Service
	tenantQueue
	credit      atomic.Int64
	life        context.Context
	outstanding atomic.Int64
	freed       chan struct{}            // has a token after an outstanding delivery was settled
	pending     func() []broker.Delivery // ends the leases of what waits for the source's consumer, and returns it; may be nil

	held held
	// Only used by Receive.
	tap    *tap            // nil if a pause stopped it
	paused bool            // in this turn
	turn   context.Context // ends with life, or when the pauses change
	end    func()          // ends turn
	taps   []*tap          // all that may not be closed yet
}

// tap is a subscription of the broker. When a pause has stopped it, it stays open until nothing of it is outstanding.
type tap struct {
	broker.Subscription
	outstanding atomic.Int64
	stopped     atomic.Bool
	closed      sync.Once
	gone        atomic.Bool // Close has returned
}

// Close ends the subscription, unless that was done, and waits until it is ended.
func (t *tap) Close() {
	t.closed.Do(func() {
		t.Subscription.Close()
		t.gone.Store(true)
	})
}

// open subscribes to a queue. If the queue is paused, the source does so when the pause ends. The source receives until
// life ends; ctx bounds the call. Errors: NotFound.
func (s *Service) open(ctx, life context.Context, queue QueueName, credit int) (*source, error) {
	of := tenantQueue{auth.TenantOf(life), queue}
	reading, cancel := context.WithTimeout(ctx, pauseRead)
	defer cancel()
	// While Postgres is away, use what was read before.
	_ = s.readPaused(reading, of)
	src := &source{service: s, tenantQueue: of, life: life, freed: make(chan struct{}, 1), end: func() {}}
	src.credit.Store(int64(credit))
	if err := src.begin(ctx); err != nil {
		src.Close()
		return nil, err
	}
	s.rates.add(src)
	return src, nil
}

// Receive blocks until there is a delivery, life ends or the queue is gone. It must not be called concurrently.
func (s *source) Receive() (broker.Delivery, error) {
	for {
		if s.turn.Err() != nil {
			if err := s.begin(s.life); err != nil {
				return broker.Delivery{}, err
			}
		}
		if s.paused {
			s.rest()
			continue
		}
		if done, err := s.grow(); err != nil {
			return broker.Delivery{}, err
		} else if done {
			continue
		}
		if s.isFull() {
			s.awaitRoom()
			continue
		}
		d, err := s.tap.Receive(s.turn)
		if err == nil && s.park(d) {
			continue
		}
		if err == nil {
			if d, is := s.accept(d); is {
				return d, nil
			}
			continue
		}
		if s.turn.Err() != nil {
			continue
		}
		if !errors.Is(err, broker.ErrNoQueue) {
			return d, err
		}
		// The queue was deleted, or the broker came back empty. Subscribing finds out by the table.
		s.unsubscribe()
		if err := s.subscribe(s.life); err != nil {
			return d, err
		}
	}
}

// accept takes a delivery. It returns false for one that names another tenant, which it refuses.
func (s *source) accept(d broker.Delivery) (broker.Delivery, bool) {
	d = s.take(d)
	if named, is := d.Headers[tenantHeader]; is && named != s.tenant {
		s.refuse(d, named)
		return d, false
	}
	return d, true
}

// take counts a delivery as outstanding. What the broker counted and nobody was given is no attempt.
func (s *source) take(d broker.Delivery) broker.Delivery {
	c := &counted{Settler: d.Settler, source: s, tap: s.tap, stay: stayOf(d)}
	if s.held.most > 0 {
		c.bytes = s.hold(d)
	}
	s.outstanding.Add(1)
	s.tap.outstanding.Add(1)
	d.Settler = c
	if d.Attempt == 1 {
		return d
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), pauseRead)
	defer cancel()
	if n, err := selectUncounted(ctx, s.service.handlers, s.queue, c.stay); err == nil && n > 0 {
		c.noted = true
		d.Attempt = max(1, d.Attempt-n)
	}
	return d
}

func stayOf(d broker.Delivery) stay {
	earlier, _ := strconv.Atoi(d.Headers[attemptsHeader])
	return stay{d.ID, max(0, min(earlier, math.MaxInt32))}
}

// giveBack returns deliveries to the queue that nobody was given, so that they do not count as attempts. Brokers count them;
// the table notes that they do not count. While Postgres is away, they count.
func (s *source) giveBack(deliveries ...broker.Delivery) {
	if len(deliveries) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(auth.AsService(context.Background(), s.tenant), settleTimeout)
	defer cancel()
	stays := make([]stay, len(deliveries))
	for i, d := range deliveries {
		stays[i] = stayOf(d)
	}
	if err := insertUncounted(ctx, s.service.handlers, s.queue, stays); err != nil {
		s.service.log.Warn("messages that nobody was given count as delivered", zap.Inline(s.tenantQueue),
			zap.Int("messages", len(deliveries)), zap.Error(err))
	}
	var settling sync.WaitGroup
	for _, d := range deliveries {
		settling.Go(func() { s.settle(d.Nack, []zap.Field{zap.Inline(s.tenantQueue), zap.String("id", d.ID)}) })
	}
	settling.Wait()
}

// refuse makes a dead letter of a message that names a tenant other than its queue's. Its content is not stored, since
// nobody may see it. While Postgres is away the message keeps its place, since the messages after it may be of the same
// kind.
func (s *source) refuse(d broker.Delivery, named string) {
	fields := []zap.Field{zap.Inline(s.tenantQueue), zap.String("id", d.ID), zap.String("named", fmt.Sprintf("%.64s", named))}
	f := &failure{message: Message{ID: d.ID, Attempt: d.Attempt}, reason: otherTenant, permanent: true}
	for attempt := 1; ; attempt++ {
		err := s.service.fail(s.life, s.queue, f)
		if err == nil {
			break
		}
		delay := loop.Delay(attempt, minReconnect, maxReconnect)
		s.service.log.Warn("message of another tenant cannot be moved, trying again",
			append(fields, zap.Duration("retry_in_ms", delay), zap.Error(err))...)
		if !loop.Sleep(s.life, delay) {
			s.settle(d.Nack, fields)
			return
		}
	}
	s.service.log.Error("message of another tenant refused", fields...)
	s.settle(d.Ack, fields)
}

func (s *source) settle(how func(context.Context) error, fields []zap.Field) {
	defer observe.LogPanic(s.service.log)
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := how(ctx); err != nil {
		s.service.log.Warn("settling failed, the message will come again", append(fields, zap.Error(err))...)
	}
}

// begin starts a turn, which lasts for as long as the queue stays paused or stays not paused. ctx bounds the call.
func (s *source) begin(ctx context.Context) error {
	s.end()
	if err := s.life.Err(); err != nil {
		return err
	}
	paused, until := s.service.pauses.of(s.tenantQueue)
	turn, cancel := context.WithCancel(s.life)
	unhook := context.AfterFunc(until, cancel)
	s.paused, s.turn, s.end = paused, turn, func() { unhook(); cancel() }
	if paused {
		s.suspend()
		return nil
	}
	if s.tap != nil {
		return nil
	}
	return s.subscribe(ctx)
}

// subscribe starts to receive from the broker. Errors: NotFound.
func (s *source) subscribe(ctx context.Context) error {
	s.service.declareOnce(ctx, s.tenantQueue)
	return onDeclared(ctx, s.queue, s.service.declare, func() error {
		sub, err := s.service.broker.Subscribe(ctx, s.queue.onBroker(s.tenant), int(s.credit.Load()))
		if err != nil {
			return err
		}
		s.tap = &tap{Subscription: sub}
		s.taps = append(slices.DeleteFunc(s.taps, func(t *tap) bool { return t.gone.Load() }), s.tap)
		return nil
	})
}

// resize sets the credit. What the broker has sent goes back to the queue if that changes it, or if the source was suspended. It must
// not be called concurrently with Receive.
func (s *source) resize(credit int) error {
	if s.credit.Load() == int64(credit) && (s.tap != nil || s.paused) {
		return nil
	}
	s.suspend()
	s.credit.Store(int64(credit))
	if s.paused || s.turn.Err() != nil { // Receive begins a turn, which subscribes.
		return s.life.Err()
	}
	return s.subscribe(s.life)
}

// rest blocks until the turn ends.
func (s *source) rest() { <-s.turn.Done() }

// isFull reports whether deliveries from before a pause take up credit that the broker does not know of.
func (s *source) isFull() bool {
	return s.outstanding.Load() > s.tap.outstanding.Load() && s.outstanding.Load() >= s.credit.Load()
}

// awaitRoom blocks until the turn ends or a delivery is settled.
func (s *source) awaitRoom() {
	select {
	case <-s.turn.Done():
	case <-s.freed:
	}
}

// suspend has the broker send nothing more. What is outstanding can still be settled.
func (s *source) suspend() {
	if s.tap == nil {
		return
	}
	back := append(s.tap.Stop(), s.unpark()...)
	if s.pending != nil {
		back = append(back, s.pending()...)
	}
	s.giveBack(back...)
	s.retire()
}

// retire closes the tap, which was stopped, once nothing of it is outstanding.
func (s *source) retire() {
	t := s.tap
	s.tap = nil
	t.stopped.Store(true)
	if t.isOver() {
		go func() { defer observe.LogPanic(s.service.log); t.Close() }() // It may take a while, in which another tap receives.
	}
}

// isOver reports whether nothing can be settled at the tap any more.
func (t *tap) isOver() bool { return t.stopped.Load() && t.outstanding.Load() == 0 }

// unsubscribe ends a subscription whose queue is gone.
func (s *source) unsubscribe() {
	if s.tap != nil {
		s.tap.Close()
		s.tap = nil
	}
}

// stop has the broker send nothing more, and gives back what nobody was given, with the given deliveries. It must be called
// after the last Receive has returned. What goes back before that may come to this source once more, and count.
func (s *source) stop(back ...broker.Delivery) {
	s.end()
	if s.tap != nil {
		back = append(back, s.tap.Stop()...)
	}
	s.giveBack(append(back, s.unpark()...)...)
}

// drain has the broker send nothing more to a source whose life has ended, and returns what it had sent. Each delivery must be
// settled before Close. It must be called after the last Receive has returned.
func (s *source) drain() (left []broker.Delivery) {
	s.end()
	if s.tap == nil {
		return nil
	}
	for _, d := range s.tap.Stop() {
		if d, is := s.accept(d); is {
			left = append(left, d)
		}
	}
	s.retire()
	return left
}

// Close ends the source. It must be called after the last Receive has returned. Outstanding messages go back to the
// queue.
func (s *source) Close() {
	s.service.rates.of(s.tenantQueue).sources.Delete(s)
	s.stop()
	for _, t := range s.taps {
		t.Close()
	}
}

// counted is the Settler of a source's delivery. It counts the outstanding deliveries down.
type counted struct {
	broker.Settler
	source *source
	tap    *tap
	stay   stay
	noted  bool // some deliveries of the stay do not count
	bytes  int64
}

func (c *counted) Ack(ctx context.Context) error {
	defer c.settled()
	if err := c.Settler.Ack(ctx); err != nil || !c.noted {
		return err
	}
	forgetting, cancel := context.WithTimeout(auth.AsService(ctx, c.source.tenant), pauseRead)
	defer cancel()
	_ = deleteUncounted(forgetting, c.source.service.handlers, c.source.queue, c.stay) // Otherwise it expires.
	return nil
}

func (c *counted) Nack(ctx context.Context) error {
	defer c.settled()
	return c.Settler.Nack(ctx)
}

func (c *counted) settled() {
	c.source.outstanding.Add(-1)
	c.source.release(c.bytes)
	left := c.tap.outstanding.Add(-1)
	if left == 0 && c.tap.stopped.Load() {
		go c.tap.Close() // It may take a while.
	}
	loop.Signal(c.source.freed)
}
