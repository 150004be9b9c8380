package message_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"plinth/internal/broker"
	"plinth/internal/message"
)

// TestLargeBatchesShare has many callers of one tenant publish large batches to a broker that takes its time: few of them are in progress,
// and a batch of another tenant need not wait.
func TestLargeBatchesShare(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queueAs(t, "a", "orders", message.Policy{})
	f.queueAs(t, "b", "orders", message.Policy{})
	const callers, size = 32, 1000
	batch := make([]message.Publication, size)
	for i := range batch {
		batch[i] = to(q, "x")
	}
	var working, most atomic.Int64
	release := make(chan struct{})
	f.trouble.publishes(func(_ context.Context, batch []broker.Publication) []error {
		if batch[0].To.Tenant() == "a" {
			most.Store(max(most.Load(), working.Add(1)))
			<-release
			working.Add(-1)
		}
		return each(batch, nil)
	})
	publish := func(tenant string) {
		for _, r := range f.PublishBatch(as(t, tenant), batch) {
			if r.Err != nil {
				t.Errorf("%s: %v", tenant, r.Err)
				return
			}
		}
	}
	var group sync.WaitGroup
	for range callers {
		group.Go(func() { publish("a") })
	}
	eventually(t, "some are in progress", func() bool { return working.Load() > 1 })
	publish("b")
	close(release)
	group.Wait()
	if n := most.Load(); n > 4 {
		t.Errorf("%d large batches of one tenant were in progress", n)
	}
}
