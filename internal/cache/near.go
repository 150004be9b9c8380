package cache

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// What a process keeps near, of all tenants. Bytes are those of the encoded values, their keys, and what the process needs for each.
const (
	nearBytes    = 64 << 20
	nearEntries  = 100_000
	nearOverhead = 256
	nearTick     = time.Second // how exactly the cache knows the time; that of a value is looked at exactly
)

// Near has a Remember keep what it returns in the memory of this process too, and return it without asking Redis for up to maxAge.
// An invalidation in this process removes it at once; one in another process is not heard of, so that a call may return what was
// current up to maxAge before. While Redis is away nothing more is kept. All callers of the process get the same value, and must not
// change what it points to.
func Near(maxAge time.Duration) Option { return func(r *request) { r.near = maxAge } }

// near is what this process keeps of Remember. Its zero value keeps nothing, and costs nothing, until somebody asks for it.
type near struct {
	once          sync.Once
	kept          atomic.Pointer[otter.Cache[nearKey, *nearValue]]
	bytes, atMost uint64 // nearBytes and nearEntries

	start time.Time // since when times are counted
	seed  maphash.Seed
	// ages count the invalidations, of several keys in one: what was asked for before one is not kept.
	ages [256]atomic.Uint64
}

type nearKey struct{ tenant, key string }

// nearValue is a value, or an absence.
type nearValue struct {
	asOf, until time.Duration // when it was current, and until when it is fresh
	loadedAt    time.Time
	value       any // a *T; nil for an absence
	message     string
	weight      uint32
}

func newNear(bytes, entries uint64) *near {
	return &near{bytes: bytes, atMost: entries, start: time.Now(), seed: maphash.MakeSeed()}
}

// open makes the cache when it is needed first.
func (n *near) open() *otter.Cache[nearKey, *nearValue] {
	n.once.Do(func() {
		share := uint32((n.bytes + n.atMost - 1) / n.atMost)
		n.kept.Store(otter.Must(&otter.Options[nearKey, *nearValue]{
			// An entry weighs at least its share, so that the weight bounds the entries, too.
			MaximumWeight: n.bytes,
			Weigher:       func(_ nearKey, v *nearValue) uint32 { return max(v.weight, share) },
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[nearKey, *nearValue]) time.Duration {
				return e.Value.until - time.Since(n.start) + 2*nearTick
			}),
			Clock: otter.NewCoarseClock(nearTick),
		}))
	})
	return n.kept.Load()
}

// get returns what is kept of a key and was current at most maxAge ago, or nil.
func (n *near) get(key nearKey, maxAge time.Duration) *nearValue {
	kept := n.kept.Load()
	if kept == nil {
		return nil
	}
	v, ok := kept.GetIfPresent(key)
	if !ok {
		return nil
	}
	if now := time.Since(n.start); now-v.asOf >= maxAge || now >= v.until {
		return nil
	}
	return v
}

func (n *near) ageOf(key nearKey) *atomic.Uint64 {
	return &n.ages[maphash.Comparable(n.seed, key)%uint64(len(n.ages))]
}

// put keeps a value, unless its key was invalidated since its age was read.
func (n *near) put(key nearKey, age uint64, v *nearValue) {
	n.open().Compute(key, func(*nearValue, bool) (*nearValue, otter.ComputeOp) {
		if n.ageOf(key).Load() != age {
			return nil, otter.CancelOp
		}
		return v, otter.WriteOp
	})
}

// remove forgets keys, and has nothing kept of them that was asked for before.
func (n *near) remove(ctx context.Context, keys []Key) {
	tenant := auth.TenantOf(ctx)
	for _, k := range keys {
		key := nearKey{tenant, k.key}
		n.ageOf(key).Add(1)
		if kept := n.kept.Load(); kept != nil {
			kept.Invalidate(key)
		}
	}
}

// nearby returns what is kept near as a T. It reports false if there is none.
func nearby[T any](s *Service, key nearKey, r *request) (v T, ok bool, err error) {
	n := s.near.get(key, r.near)
	if n == nil {
		return v, false, nil
	}
	if n.value != nil {
		of, ok := n.value.(*T)
		if !ok {
			return v, false, nil
		}
		v = *of
	} else {
		err = errs.New(errs.NotFound, "%s", n.message)
	}
	if r.age != nil {
		*r.age = max(0, time.Since(n.loadedAt))
	}
	s.metrics.near.Inc()
	return v, true, err
}

// keepNear keeps an outcome, as the value that it was decoded to.
func keepNear[T any](s *Service, key nearKey, age uint64, r *request, o outcome, v T) {
	now := time.Since(s.near.start)
	asOf := o.asOf.Sub(s.near.start)
	until := min(asOf+r.near, now+time.Until(o.memo.freshUntil))
	if !o.kept || now >= until {
		return
	}
	n := &nearValue{
		asOf: asOf, until: until, loadedAt: o.memo.loadedAt,
		weight: uint32(len(key.tenant) + len(key.key) + len(o.memo.body) + nearOverhead),
	}
	if o.memo.absent {
		n.message = string(o.memo.body)
	} else {
		n.value = &v
	}
	s.near.put(key, age, n)
}
