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
type rates struct{ queues sync.Map } // from tenantQueue to *counters

// counters are the counts of one queue since they were last read.
type counters struct{ published, delivered, acknowledged atomic.Int64 }

// of returns the counters of a queue.
func (r *rates) of(queue tenantQueue) *counters {
	if c, ok := r.queues.Load(queue); ok {
		return c.(*counters)
	}
	c, _ := r.queues.LoadOrStore(queue, &counters{})
	return c.(*counters)
}

// count is the traffic of a queue in one bucket of time.
type count struct {
	tenantQueue
	published, delivered, acknowledged int64
}

// take returns the counts and sets the counters to zero.
func (r *rates) take() (counts []count) {
	r.queues.Range(func(queue, of any) bool {
		c := of.(*counters)
		n := count{queue.(tenantQueue), c.published.Swap(0), c.delivered.Swap(0), c.acknowledged.Swap(0)}
		if n.published+n.delivered+n.acknowledged > 0 {
			counts = append(counts, n)
		}
		return true
	})
	return counts
}

// run writes the counts to the database at the end of each bucket of time, and once more when ctx ends. All processes use
// the same buckets, so that the buckets of the last minute cover exactly that minute. Counts that cannot be written are
// dropped: written later, they would show a peak that never was.
func (r *rates) run(ctx context.Context, system *pg.System, log *zap.Logger) error {
	for loop.Sleep(ctx, time.Until(time.Now().Truncate(ratesBucket).Add(ratesBucket))) {
		r.flush(ctx, system, log)
	}
	r.flush(ctx, system, log)
	return nil
}

func (r *rates) flush(ctx context.Context, system *pg.System, log *zap.Logger) {
	counts := r.take()
	if len(counts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ratesLimit)
	defer cancel()
	if err := addRates(ctx, system, counts); err != nil {
		log.Warn("rates of queues are lost", zap.Int("queues", len(counts)), zap.Error(err))
	}
}
