package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

const (
	// A subscription holds at most maxHeld bytes of messages, or one message, and all of a process at most maxHeldByAll, or one
	// message each.
	maxHeld      = 16 << 20
	maxHeldByAll = 256 << 20
	// maxMessage is the size of messages that have their attributes beside a body of the largest size.
	maxMessage = 4 << 20
)

// subscription claims as many messages as its credit allows and buffers them for Receive.
type subscription struct {
	b      *Broker
	line   *line
	queue  int64
	credit int // guarded by mu; 0 once it is stopped

	woken   chan struct{} // there may be something to claim, or the queue is deleted
	freed   chan struct{} // there is credit again
	arrived chan struct{} // something is in the buffer
	over    chan struct{} // err is set: the subscription has ended
	stopped chan struct{} // closed when run has returned what it held

	stopping  chan struct{} // closed by Stop
	stopOnce  sync.Once
	claimless chan struct{} // closed when nothing is claimed any more after Stop

	mu     sync.Mutex
	err    error
	held   map[*delivery]struct{} // all that is outstanding, the buffer included
	buffer []*delivery
	bytes  int64              // of what is held
	left   map[int64]struct{} // messages that other subscriptions may claim first

	// doubt is the lease of a claim that failed in this process but may have succeeded in the database.
	doubt string
}

func newSubscription(b *Broker, l *line, queue int64, credit int) *subscription {
	return &subscription{
		b: b, line: l, queue: queue, credit: credit,
		woken:   make(chan struct{}, 1),
		freed:   make(chan struct{}, 1),
		arrived: make(chan struct{}, 1),
		over:    make(chan struct{}),
		stopped: make(chan struct{}),

		stopping: make(chan struct{}), claimless: make(chan struct{}),

		held: map[*delivery]struct{}{}, left: map[int64]struct{}{},
	}
}

// Receive implements broker.Subscription.
func (s *subscription) Receive(ctx context.Context) (broker.Delivery, error) {
	backoff := newBackoff()
	for {
		d, err := s.first()
		if err != nil {
			return broker.Delivery{}, err
		}
		var retry <-chan time.Time
		if d != nil {
			leased, err := s.count(ctx, d)
			switch {
			case err != nil:
				retry = time.After(backoff.Next())
			case s.take(d) && leased:
				return broker.Delivery{Message: d.message, Attempt: d.attempt, Settler: d}, nil
			default: // Somebody else got it while it waited here.
				d.release()
				continue
			}
		}
		select {
		case <-s.arrived:
		case <-s.over:
		case <-retry:
		case <-ctx.Done():
			return broker.Delivery{}, ctx.Err()
		}
	}
}

// first returns the next delivery, or nil if the buffer is empty.
func (s *subscription) first() (*delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.buffer) == 0 {
		return nil, s.err
	}
	return s.buffer[0], nil
}

// count ensures that a delivery is counted before handling it can kill the process. The claim has counted the first
// attempts; later attempts are counted here one by one, so that they do not count the death caused by another message as
// theirs.
func (s *subscription) count(ctx context.Context, d *delivery) (leased bool, err error) {
	if d.attempt == 1 {
		return true, nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return countAttempt(ctx, s.b.db, d)
}

// take removes the first delivery from the buffer, unless it was dropped in the meantime.
func (s *subscription) take(d *delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.buffer) == 0 || s.buffer[0] != d {
		return false
	}
	s.buffer = s.buffer[1:]
	d.received = true
	return true
}

// Stop implements broker.Subscription. It returns nothing, because it has returned all to the queue by itself.
func (s *subscription) Stop() []broker.Delivery {
	s.stopOnce.Do(func() { close(s.stopping) })
	select {
	case <-s.claimless:
	case <-s.stopped:
	}
	return nil
}

// StopWhenFull implements broker.Subscription. What Stop returns to the queue is not counted, so it need not be full.
func (s *subscription) StopWhenFull() ([]broker.Delivery, bool) { return s.Stop(), true }

// leaveLine has others woken in place of a subscription that claims nothing any more, although what it holds is renewed until it is settled.
func (s *subscription) leaveLine() {
	s.mu.Lock()
	s.credit = 0
	s.mu.Unlock()
	s.b.wakeNext(s.queue, false) // It may have been woken a moment ago.
}

// returnUnreceived makes ready again what nobody has received.
func (s *subscription) returnUnreceived() {
	s.mu.Lock()
	unreceived := s.buffer
	s.buffer = nil
	for _, d := range unreceived {
		s.letGo(d)
	}
	s.mu.Unlock()
	s.b.returnAll(unreceived)
}

// How long a subscription leaves a message that it returned to others: they hear of it by a notification. It is longer if
// others are known.
const (
	leaveBriefly = 200 * time.Millisecond
	leaveLong    = time.Second
)

// leave has the subscription not claim a message for a while.
func (s *subscription) leave(seq int64, others bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left[seq] = struct{}{}
	wait := leaveBriefly
	if others || s.line.turn.shared() {
		wait = leaveLong
	}
	time.AfterFunc(wait, func() {
		s.mu.Lock()
		delete(s.left, seq)
		s.mu.Unlock()
		loop.Signal(s.woken)
	})
}

// leaves returns the messages that are left to others.
func (s *subscription) leaves() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.left))
}

// Close implements broker.Subscription. It returns when everything is returned to the queue, or after seconds if the
// database is unreachable.
func (s *subscription) Close() {
	s.end(errs.New(errs.Unavailable, "the subscription is closed"))
	<-s.stopped
}

// end makes Receive return err from now on. Only the first call has an effect.
func (s *subscription) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.over)
	}
}

// run claims until the subscription ends. A claim is never cut short, since its messages would stay leased to nobody.
func (s *subscription) run() {
	defer observe.LogPanic(s.b.logger)
	defer close(s.stopped)
	defer s.b.forget(s)
	backoff := newBackoff()
	for woken := true; ; {
		asked, got, err := s.claim()
		var retry <-chan time.Time
		var freed <-chan struct{}
		if err == nil {
			backoff.Reset()
		}
		switch {
		case errors.Is(err, broker.ErrNoQueue):
			s.end(err)
		case err != nil:
			retry = time.After(backoff.Next())
		case got == asked: // The queue may hold more.
			freed = s.freed
			if got > 0 {
				s.b.wakeNext(s.queue, false)
			}
		}
		if s.line.turn.took(woken, asked, got) {
			s.b.hint(s.queue)
		}
		woken = false
		select {
		case <-s.over:
			s.b.returnAll(s.drop())
			_ = s.resolveDoubt()
			return
		case <-s.stopping:
			s.leaveLine()
			s.returnUnreceived()
			_ = s.resolveDoubt()
			close(s.claimless)
			<-s.over
			s.b.returnAll(s.drop())
			return
		case <-s.woken:
			woken = true
		case <-freed:
		case <-retry:
		}
		s.yield()
	}
}

// claim asks for what the credit allows, and returns how many messages it asked for and got.
func (s *subscription) claim() (asked, got int, err error) {
	if err := s.resolveDoubt(); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	asked = min(s.free(), maxClaim)
	lease := uuid.NewString()
	bytes, empty := s.room()
	claimed, err := claimMessages(ctx, s.b.db, claim{
		queue: s.queue, limit: asked, bytes: bytes, atLeastOne: empty, lease: lease, leaves: s.leaves(), duration: s.b.lease,
	})
	if err != nil {
		if !errors.Is(err, broker.ErrNoQueue) {
			s.doubt = lease
		}
		return 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range claimed {
		d.sub = s
		s.hold(d)
	}
	if s.bytes > maxHeld-maxMessage { // The bytes may have limited the claim.
		asked = len(claimed)
	}
	s.buffer = append(s.buffer, claimed...)
	loop.Signal(s.arrived)
	if asked == maxClaim && len(claimed) == asked {
		loop.Signal(s.freed) // There may be credit left.
	}
	return asked, len(claimed), nil
}

// resolveDoubt returns what a failed claim may have leased.
func (s *subscription) resolveDoubt() error {
	if s.doubt == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if err := returnLease(ctx, s.b.db, s.queue, s.doubt); err != nil {
		return err
	}
	s.doubt = ""
	s.b.notify(s.queue)
	return nil
}

// hold counts a delivery as outstanding. The caller must hold s.mu, here and in letGo.
func (s *subscription) hold(d *delivery) {
	s.held[d] = struct{}{}
	s.bytes += d.bytes
	s.b.bytes.Add(d.bytes)
}

func (s *subscription) letGo(d *delivery) {
	if _, is := s.held[d]; is {
		delete(s.held, d)
		s.bytes -= d.bytes
		s.b.bytes.Add(-d.bytes)
	}
}

// room returns how many bytes the subscription may claim, and reports whether it holds nothing: then it may claim a message of
// any size.
func (s *subscription) room() (bytes int64, empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, min(maxHeld-s.bytes, maxHeldByAll-s.b.bytes.Load())), len(s.held) == 0
}

func (s *subscription) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.credit - len(s.held)
}

func (s *subscription) outstanding() []*delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.held))
}

// drop removes and returns everything that is outstanding. The caller makes it ready again.
func (s *subscription) drop() []*delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := slices.Collect(maps.Keys(s.held))
	for _, d := range held {
		s.letGo(d)
	}
	s.buffer = nil
	loop.Signal(s.freed)
	return held
}
