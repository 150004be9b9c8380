package tenant

import (
	"context"
	"sync"
	"time"

	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	usedEvery = time.Minute     // how often uses of a key are recorded and written
	usedLimit = 5 * time.Second // bounds one write
)

// used holds the ids of the keys that were used since the last write, with the times of use. It is bounded by the number
// of keys.
type used struct {
	mu    sync.Mutex
	times map[string]time.Time
}

// note records the use of a key. Every call runs it: almost always it finds that a use was recorded recently.
func (u *used) note(h *holder, now time.Time) {
	last := h.usedAt.Load()
	if now.UnixNano()-last >= int64(usedEvery) && h.usedAt.CompareAndSwap(last, now.UnixNano()) {
		u.add(h.id(), now)
	}
}

func (u *used) add(id string, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.times == nil {
		u.times = map[string]time.Time{}
	}
	if at.After(u.times[id]) {
		u.times[id] = at
	}
}

func (u *used) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	times := u.times
	u.times = nil
	return times
}

// writeUsed writes periodically which keys were used, and once more when ctx ends.
func (s *Service) writeUsed(ctx context.Context, every time.Duration) {
	loop.Every(ctx, every, s.flushUsed)
	s.flushUsed(ctx)
}

// flushUsed writes the uses since the last time. Uses that cannot be written are kept for the next time.
func (s *Service) flushUsed(ctx context.Context) {
	times := s.used.take()
	if len(times) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usedLimit)
	defer cancel()
	if s.system.InTx(ctx, func(tx *pg.Tx) error { return updateUsed(ctx, tx, times) }) != nil {
		for id, at := range times {
			s.used.add(id, at)
		}
	}
}
