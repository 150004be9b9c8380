package message

import (
	"slices"
	"time"

	"plinth/internal/broker"
)

// lease is one outstanding message. It begins when the message is received. When its timer fires, the message goes back to
// the queue, and the attempt counts if the message was given to the consumer.
type lease struct {
	delivery broker.Delivery
	message  Message
	timer    *time.Timer
	given    bool // guarded by the Subscription's mu
}

// lease starts a lease. If the message is leased already, by a delivery whose connection was lost, that lease ends.
func (s *Subscription) lease(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.leases[l.message.ID]; old != nil {
		old.timer.Stop()
		go s.settle(old.delivery.Nack, l.message.ID)
	}
	s.startLease(l)
	s.pending = append(s.pending, l)
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
	given := l.given
	if !given {
		s.pending = slices.DeleteFunc(s.pending, func(p *lease) bool { return p == l })
	}
	s.mu.Unlock()
	switch {
	case current && given:
		s.settle(l.delivery.Nack, l.message.ID)
	case current:
		s.source.giveBack(l.delivery)
	}
}

// endLease ends a lease. The caller must hold s.mu.
func (s *Subscription) endLease(l *lease) {
	l.timer.Stop()
	delete(s.leases, l.message.ID)
	s.signalFreed()
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

// endLeases ends all leases, and returns the deliveries that do not count as attempts.
func (s *Subscription) endLeases() (back []broker.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		s.endLease(l)
		if !l.given || s.stopping {
			back = append(back, l.delivery)
		}
	}
	return back
}
