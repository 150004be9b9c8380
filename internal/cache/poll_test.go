package cache_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"plinth/internal/cache"
)

// questions counts what a client asks.
type questions struct{ alone, together atomic.Int64 }

func (q *questions) DialHook(next redis.DialHook) redis.DialHook { return next }

func (q *questions) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { q.alone.Add(1); return next(ctx, cmd) }
}

func (q *questions) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { q.together.Add(1); return next(ctx, cmds) }
}

// Whatever a process waits for, it asks for together.
func TestOnePoller(t *testing.T) {
	t.Parallel()
	open := opener("redis://" + miniredis.RunT(t).Addr())
	client, ctx, keys := open(t), newTenant(t), 100
	q := &questions{}
	client.AddHook(q)
	loading, waiting := newService(open(t)), newService(client)
	var begun, all sync.WaitGroup
	goOn := make(chan struct{})
	for i := range keys {
		begun.Add(1)
		all.Go(func() {
			_, _ = cache.Remember(ctx, loading, strconv.Itoa(i), time.Hour, func(context.Context) (int, error) { begun.Done(); <-goOn; return i, nil })
		})
	}
	begun.Wait()
	for i := range keys {
		all.Go(func() {
			v, err := cache.Remember(ctx, waiting, strconv.Itoa(i), time.Hour, func(context.Context) (int, error) { return -1, nil })
			if v != i || err != nil {
				t.Errorf("%d %v, want %d", v, err, i)
			}
		})
	}
	most := int64(5 * keys) // To look, to ask for the lease, twice where the script is not known, and to take what was loaded.
	eventually(t, "it has looked a while", func() bool { return q.together.Load() >= 15 || q.alone.Load() > most })
	if n := q.alone.Load(); n > most {
		t.Errorf("%d questions for %d keys", n, keys)
	}
	close(goOn)
	all.Wait()
}
