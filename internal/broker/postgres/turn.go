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

// turn is what makes the processes with subscriptions of one queue take turns. All hear of a message at about the same time,
// but one may always hear first. So a process that finds nothing, when it subscribes or is woken, hints to the others that it
// is there; and one that heard such a hint lately lets the others go first after a claim of its own. It may take a second until
// they know of each other. Nobody waits where nobody else is, and nobody waits whom its own credit limits.
type turn struct {
	mu     sync.Mutex
	served bool      // the last claim got something, and its credit allowed for more
	hinted time.Time // when this process last hinted to the others
	heard  time.Time // when it last heard a hint of another
}

// took takes in how a claim ended, and says whether to hint that it got nothing. woken says that it was the first of its
// subscription, or came of a wake.
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

// hear takes in the hint of another process, and says whether to answer it: the first for a while is, for the other may not
// know of this one.
func (t *turn) hear() (answer bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answer = !t.isShared()
	t.heard = time.Now()
	return answer
}

func (t *turn) isShared() bool { return time.Since(t.heard) < sharedFor }

// yields says whether to let others go first.
func (t *turn) yields() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.served && t.isShared()
}

// yield lets others go first, if that is due.
func (s *subscription) yield() {
	if !s.line.turn.yields() {
		return
	}
	select {
	case <-s.over:
	case <-time.After(yieldFor):
	}
}

// hint tells the other processes that this one has subscriptions of a queue.
func (b *Broker) hint(queue int64) {
	b.notifier.Notify(channel, strconv.FormatInt(queue, 10)+" "+b.id)
}

// hearHint takes in the hint of another process, and answers it where that is due.
func (b *Broker) hearHint(queue int64) {
	b.mu.Lock()
	l := b.lines[queue]
	b.mu.Unlock()
	if l != nil && l.turn.hear() {
		b.hint(queue)
	}
}
