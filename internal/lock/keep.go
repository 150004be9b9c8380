package lock

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	keepBatch = 1000 // leases in one statement
	// keepTogether is how much earlier than due a lease is renewed together with others.
	keepTogether = 20 * time.Millisecond
	keepLimit    = 2 * time.Second // bounds one statement; less where a lease ends sooner
	keepRetry    = time.Second     // most between two tries
	keepLeast    = 20 * time.Millisecond
)

// keeper renews the leases of a process in batches.
type keeper struct {
	system  *pg.System
	log     *zap.Logger
	metrics *metrics
	changed chan struct{} // has a token after a new holding

	mu   sync.Mutex
	held map[*holding]struct{}
}

func newKeeper(system *pg.System, log *zap.Logger, m *metrics) *keeper {
	return &keeper{system: system, log: log, metrics: m, changed: make(chan struct{}, 1), held: map[*holding]struct{}{}}
}

// hold keeps a lease until drop is called.
func (k *keeper) hold(ctx context.Context, lease Lease, ttl time.Duration) (context.Context, *holding) {
	ctx, h := newHolding(ctx, lease, ttl)
	k.mu.Lock()
	k.held[h] = struct{}{}
	k.mu.Unlock()
	loop.Signal(k.changed)
	return ctx, h
}

// drop ends a holding and its context, and reports whether its lease had ended before.
func (k *keeper) drop(h *holding) (lost bool) {
	k.mu.Lock()
	delete(k.held, h)
	k.mu.Unlock()
	if lost = h.over(); lost {
		k.metrics.lost.Inc()
	}
	h.timer.Stop()
	h.cancel(nil)
	return lost
}

// run renews until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for {
		due, next := k.due(time.Now())
		if len(due) > 0 {
			k.renew(ctx, due)
			continue
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-k.changed:
		case <-ctx.Done():
			return
		}
		timer.Stop()
	}
}

// due returns the holdings that are to be renewed now, and how long there are none.
func (k *keeper) due(now time.Time) (due []*holding, next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next = time.Hour
	for h := range k.held {
		renewAt, end := h.due()
		switch wait := renewAt.Sub(now); {
		case !now.Before(end): // It stays until it is dropped.
		case wait > keepTogether || len(due) == keepBatch:
			next = min(next, wait)
		default:
			due = append(due, h)
		}
	}
	return due, next
}

// renew renews the leases in one statement. One that cannot be renewed yet is tried again, as long as it lasts.
func (k *keeper) renew(ctx context.Context, due []*holding) {
	sent := time.Now()
	limit := keepLimit
	asked := make([]renewal, len(due))
	for i, h := range due {
		_, end := h.due()
		limit = min(limit, max(end.Sub(sent)/2, keepLeast)) // So that another try fits in.
		asked[i] = renewal{h.tenant, h.Name, h.ID, h.ttl}
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := renewLeases(asking, k.system, asked)
	if err != nil && ctx.Err() == nil {
		k.log.Warn("leases of locks cannot be renewed, trying again", zap.Int("leases", len(due)), zap.Error(err))
	}
	for i, h := range due {
		switch {
		case err != nil || found[i].state == busy:
			h.postpone(min(max(h.ttl/20, keepLeast), keepRetry))
		case found[i].state == renewed:
			h.extend(sent.Add(h.ttl))
		default:
			h.lose()
		}
	}
}
