package postgres

import (
	"strconv"
	"sync"
	"time"
)

const (
	maxClaim  = 64 // messages at once, so that subscriptions take turns at what was published at once
	yieldFor  = 5 * time.Millisecond
	hintEvery = time.Second
	sharedFor = 3 * hintEvery
)

// turn makes the processes that subscribe to one queue take turns. All of them hear of a message at about the same time, but
// one may always be first. So a process that finds nothing, when it subscribes or is woken, sends the others a hint that it
// exists; and a process that has received such a hint lately lets the others go first after a claim of its own. It may take
// a second until they know of each other. A process does not wait if there is no other, or if its own credit limited the
// claim.
type turn struct {
	mu     sync.Mutex
	served bool      // the last claim got something, and its credit allowed for more
	hinted time.Time // when this process last hinted to the others
	heard  time.Time // when it last heard a hint of another
}

// took records how a claim ended, and reports whether to send a hint that it got nothing. woken means that the claim was the
// first of its subscription, or followed a wake-up.
func (t *turn) took(woken bool, asked, got int) (hint bool) {
	if asked == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.served = got > 0 && (got < asked || asked == maxClaim)
	if !woken || got > 0 || time.Since(t.hinted) < hintEvery {
		return false
	}
	t.hinted = time.Now()
	return true
}

// hear records the hint of another process, and reports whether to answer it. Only the first hint for a while is answered,
// since the other process may not know of this one.
func (t *turn) hear() (answer bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answer = !t.isShared()
	t.heard = time.Now()
	return answer
}

// shared reports whether another process has subscriptions, as far as this one has heard lately.
func (t *turn) shared() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isShared()
}

func (t *turn) isShared() bool { return time.Since(t.heard) < sharedFor }

// yields reports whether to let others go first.
func (t *turn) yields() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.served && t.isShared()
}

// yield lets others go first, if it is their turn.
func (s *subscription) yield() {
	if !s.line.turn.yields() {
		return
	}
	select {
	case <-s.over:
	case <-time.After(yieldFor):
	}
}

// hint notifies the other processes that this one has subscriptions of a queue.
func (b *Broker) hint(queue int64) {
	b.notifier.Notify(channel, strconv.FormatInt(queue, 10)+" "+b.id)
}

// hearHint handles the hint of another process, and answers it if necessary.
func (b *Broker) hearHint(queue int64) {
	b.mu.Lock()
	l := b.lines[queue]
	b.mu.Unlock()
	if l != nil && l.turn.hear() {
		b.hint(queue)
	}
}
