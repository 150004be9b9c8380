package tenant

import (
	"context"
	"sync"
	"time"

	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	usedEvery = time.Minute     // uses of a key are noted so often, and written
	usedLimit = 5 * time.Second // to write them in
)

// used are the keys that were used since that was written last, by id, with the time. It holds no more than there are keys.
type used struct {
	mu    sync.Mutex
	times map[string]time.Time
}

// note is on the path of every call: almost always it finds that the key was noted a moment ago.
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

// writeUsed writes once in a while which keys were used, and once more at the end.
func (s *Service) writeUsed(ctx context.Context, every time.Duration) {
	loop.Every(ctx, every, s.flushUsed)
	s.flushUsed(ctx)
}

// flushUsed writes what was used since the last time. What cannot be written now is kept for the next time.
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
