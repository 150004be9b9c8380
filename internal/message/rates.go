package message

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	ratesBucket = 10 * time.Second
	ratesLimit  = 5 * time.Second // to write the counts
)

// rates counts the messages that go through the queues in this process.
type rates struct {
	queues  sync.Map   // from tenantQueue to *counters
	opening sync.Mutex // held while a source is added, or counters without one are forgotten
}

// counters are the counts of one queue since they were last read.
type counters struct {
	published, delivered, acknowledged atomic.Int64
	sources                            sync.Map // the sources of the queue, by which what is outstanding is counted
	idle                               bool     // nothing was counted the last time, and it had no source; take alone uses it
}

// of returns the counters of a queue.
func (r *rates) of(queue tenantQueue) *counters {
	if c, ok := r.queues.Load(queue); ok {
		return c.(*counters)
	}
	c, _ := r.queues.LoadOrStore(queue, &counters{})
	return c.(*counters)
}

// add adds a source to the counters of its queue.
func (r *rates) add(src *source) {
	r.opening.Lock()
	defer r.opening.Unlock()
	r.of(src.tenantQueue).sources.Store(src, nil)
}

// forget removes counters unless a source was added meanwhile.
func (r *rates) forget(queue tenantQueue, c *counters) {
	r.opening.Lock()
	defer r.opening.Unlock()
	open := false
	c.sources.Range(func(_, _ any) bool { open = true; return false })
	if !open {
		r.queues.CompareAndDelete(queue, c)
	}
}

// eachSource calls do for each source that is open.
func (r *rates) eachSource(do func(*source)) {
	r.queues.Range(func(_, of any) bool {
		of.(*counters).sources.Range(func(src, _ any) bool {
			do(src.(*source))
			return true
		})
		return true
	})
}

// count is the traffic of a queue in one bucket of time.
type count struct {
	tenantQueue
	published, delivered, acknowledged int64
	outstanding                        int64 // now
}

// take returns the counts and sets the counters to zero. It forgets queues that nothing went through since the take before the last
// one, so that there is memory for queues in use, not for every name that there ever was. Whoever has got their counters would have
// had to use them for as long.
func (r *rates) take() (counts []count) {
	r.queues.Range(func(queue, of any) bool {
		c := of.(*counters)
		n := count{queue.(tenantQueue), c.published.Swap(0), c.delivered.Swap(0), c.acknowledged.Swap(0), 0}
		open := false
		c.sources.Range(func(src, _ any) bool {
			open = true
			n.outstanding += src.(*source).outstanding.Load()
			return true
		})
		switch counted := n.published+n.delivered+n.acknowledged+n.outstanding > 0; {
		case counted:
			counts, c.idle = append(counts, n), false
		case c.idle && !open:
			r.forget(queue.(tenantQueue), c)
		default:
			c.idle = !open
		}
		return true
	})
	return counts
}

// run writes the counts to the database at the end of each bucket of time, and once more when ctx ends. All processes use
// the same buckets, so that the buckets of the last minute cover exactly that minute. Counts that cannot be written are
// dropped: written later, they would show a peak that never was.
func (r *rates) run(ctx context.Context, system *pg.System, m *metrics, log *zap.Logger) error {
	for loop.Sleep(ctx, time.Until(time.Now().Truncate(ratesBucket).Add(ratesBucket))) {
		r.flush(ctx, system, m, log)
	}
	r.flush(ctx, system, m, log)
	return nil
}

func (r *rates) flush(ctx context.Context, system *pg.System, m *metrics, log *zap.Logger) {
	counts := r.take()
	if len(counts) == 0 {
		return
	}
	for _, c := range counts {
		m.counted(c)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ratesLimit)
	defer cancel()
	if err := addRates(ctx, system, counts); err != nil {
		log.Warn("rates of queues are lost", zap.Int("queues", len(counts)), zap.Error(err))
	}
}
