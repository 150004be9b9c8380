package postgres

import (
	"strconv"
	"time"
)

const (
	maxClaim  = 64 // messages at once, so that subscriptions take turns at what was published at once
	yieldFor  = 5 * time.Millisecond
	hintEvery = time.Second
	sharedFor = 3 * hintEvery
)

// turn is what makes subscriptions of one queue take turns, in all processes. All hear of a message at about the same
// time, but one may always hear first. So who finds nothing, when it begins or is woken, hints to the others that it is
// there; and who heard such a hint lately lets the others go first after a claim of its own. It may take a second until they
// know of each other. Nobody waits where nobody else is, and nobody waits whom its own credit limits.
type turn struct {
	woken  bool      // the next claim is the first, or comes of a wake
	served bool      // the last claim got something, and its credit allowed for more
	hinted time.Time // when it last hinted to the others
}

// lost takes in how a claim ended, and says whether to hint that it got nothing.
func (t *turn) lost(asked, got int) bool {
	woken := t.woken
	t.woken = false
	if asked == 0 {
		return false
	}
	t.served = got > 0 && (got < asked || asked == maxClaim)
	if !woken || got > 0 || time.Since(t.hinted) < hintEvery {
		return false
	}
	t.hinted = time.Now()
	return true
}

// yield lets others go first.
func (s *subscription) yield() {
	select {
	case <-s.over:
	case <-time.After(yieldFor):
	}
}

// hint tells the other subscriptions of the queue that this one is there.
func (b *Broker) hint(s *subscription) {
	b.notifier.Notify(channel, strconv.FormatInt(s.queue, 10)+" "+s.id)
}

// hear takes in the hint of another subscription. The first for a while is answered, for the other may not know of this
// one.
func (s *subscription) hear() {
	if !s.isShared() {
		s.b.hint(s)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
}

func (s *subscription) isShared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.heard) < sharedFor
}
