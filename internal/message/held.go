package message

import (
	"sync"
	"sync/atomic"
	"time"

	"plinth/internal/broker"
	"plinth/internal/observe"
)

const (
	// A stream holds at most maxHeld bytes, and all of a process maxHeldByAll, or one message each.
	maxHeld      = 16 << 20
	maxHeldByAll = 256 << 20
	// firstCredit is the credit of a stream until it has as many messages: that many of the largest size are what it may hold.
	firstCredit = maxHeld / MaxBytes
	// maxParked is for how long a message without its body stays where it is.
	maxParked = 30 * time.Second
)

// held bounds the bytes of a source. Brokers count credit in messages, so it begins with little, and gets what the bytes of the first ones
// allow. What comes and is too much is parked: it is outstanding at the broker, without its body, until there is room, and comes again.
type held struct {
	most  int64 // the credit that the consumer wants; 0 if the bytes do not matter
	bytes atomic.Int64
	size  int64 // of a message, a moving average; only Receive uses it

	mu     sync.Mutex
	parked []broker.Delivery
	since  *time.Timer // until the parked go back anyway
}

// grow sets the credit to what the bytes allow, once all of it is outstanding. done reports that Receive has to look again.
func (s *source) grow() (done bool, err error) {
	fits := min(s.held.most, max(1, maxHeld/max(1, s.held.size)))
	if s.held.most == 0 || s.tap.outstanding.Load() < s.credit.Load() || fits <= s.credit.Load() {
		return false, nil
	}
	back, stopped := s.tap.StopWhenFull()
	if !stopped {
		return false, nil
	}
	s.giveBack(append(back, s.unpark()...)...)
	s.retire()
	s.credit.Store(fits)
	return true, s.subscribe(s.life)
}

// hold counts the bytes of a delivery, and returns them.
func (s *source) hold(d broker.Delivery) int64 {
	n := int64(sizeOf(d))
	if s.held.size == 0 {
		s.held.size = n
	}
	s.held.size += (n - s.held.size) / 4
	s.held.bytes.Add(n)
	s.service.held.Add(n)
	return n
}

// release counts the bytes of a delivery that was settled. What is parked comes again once there is room for some.
func (s *source) release(n int64) {
	s.service.held.Add(-n)
	if s.held.bytes.Add(-n); n > 0 && s.held.bytes.Load() <= maxHeld/2 {
		go func() { defer observe.LogPanic(s.service.log); s.giveBack(s.unpark()...) }()
	}
}

// park keeps a delivery, without its body, that is too much for the source. It reports whether it is.
func (s *source) park(d broker.Delivery) bool {
	n := int64(sizeOf(d))
	room := min(maxHeld-s.held.bytes.Load(), maxHeldByAll-s.service.held.Load())
	if s.held.most == 0 || n <= room || s.outstanding.Load() == 0 {
		return false
	}
	d.Body, d.Attributes = nil, nil
	h := &s.held
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.parked) == 0 {
		h.since = time.AfterFunc(maxParked, func() { s.giveBack(s.unpark()...) })
	}
	h.parked = append(h.parked, d)
	return true
}

// unpark returns what is parked.
func (s *source) unpark() []broker.Delivery {
	h := &s.held
	h.mu.Lock()
	defer h.mu.Unlock()
	parked := h.parked
	if h.parked = nil; h.since != nil {
		h.since.Stop()
	}
	return parked
}
