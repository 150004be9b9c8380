package postgres

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"plinth/internal/observe"
)

// maxTopicBatch is how many publications to topics share a statement, which matches each with all bindings of its topic.
const maxTopicBatch = 32

// topics has what each tenant publishes to topics in statements of its own: how long they take depends on what the tenant has bound, and
// nobody else waits for them.
type topics struct {
	work func(ctx context.Context, batch []call[publication])
	log  *zap.Logger

	mu      sync.Mutex
	tenants map[string]*topicBatcher // those that publish
}

type topicBatcher struct {
	*batcher[publication]
	callers int
	end     context.CancelFunc
}

// enter returns the batcher of a tenant, which runs until all that entered have left.
func (t *topics) enter(tenant string) (through *batcher[publication], leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.tenants[tenant]
	if b == nil {
		running, end := context.WithCancel(context.Background())
		b = &topicBatcher{batcher: newBatcher(maxTopicBatch, t.work), end: end}
		t.tenants[tenant] = b
		go func() {
			defer observe.LogPanic(t.log)
			b.run(running)
		}()
	}
	b.callers++
	return b.batcher, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if b.callers--; b.callers == 0 {
			b.end()
			delete(t.tenants, tenant)
		}
	}
}
