package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/loop"
)

const (
	memoReply  = 50 * time.Millisecond // for a reply of Redis
	leaseFor   = 2 * time.Second       // of who loads; it is renewed meanwhile
	loadLimit  = time.Minute
	retryAfter = time.Second // before a load that failed is tried again if there is a stale value
)

// flights are what this process loads, or waits for, now.
type flights struct {
	mu  sync.Mutex
	all map[flightKey]*flight
}

type flightKey struct {
	tenant, key string
	tag         uint64
}

// flight is one load, or one wait for that of another process, for all callers of this process.
type flight struct {
	done chan struct{} // closed when the rest is set
	outcome
}

// outcome is what a flight has found.
type outcome struct {
	memo *memo
	err  error
	// asOf is when it was current: it is only for callers that had come before.
	asOf time.Time
	kept bool // Redis had it then
}

// join returns the flight of a key. first reports whether it begins now.
func (s *Service) join(ctx context.Context, r request) (f *flight, first bool) {
	key := flightKey{auth.TenantOf(ctx), r.key.key, r.tag}
	s.flights.mu.Lock()
	defer s.flights.mu.Unlock()
	if f = s.flights.all[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	if s.flights.all == nil {
		s.flights.all = map[flightKey]*flight{}
	}
	s.flights.all[key] = f
	go func() {
		f.err = errs.New(errs.Internal, "the loader ended its goroutine") // unless it returns
		defer func() {
			s.flights.mu.Lock()
			if f.asOf.IsZero() {
				f.asOf = time.Now() // It is for all who have come until now.
			}
			delete(s.flights.all, key)
			s.flights.mu.Unlock()
			close(f.done)
		}()
		f.outcome = s.fill(context.WithoutCancel(ctx), r)
	}()
	return f, true
}

// peek returns the memo that Redis has, fresh or not, or nil if there is none or Redis is away.
func (s *Service) peek(ctx context.Context, r request) *memo {
	tenant, text := auth.TenantOf(ctx), ""
	err := s.redis.Do(ctx, tenant, s.memoLimit, func(ctx context.Context, c redis.UniversalClient) (err error) {
		text, err = c.Get(ctx, memoName(tenant, r.key)).Result()
		return err
	})
	if err != nil {
		return nil
	}
	return decodeMemo(text, r.tag)
}

// fill loads a value, or waits for another process to do it.
func (s *Service) fill(ctx context.Context, r request) outcome {
	token := rand.Text()
	keys := memoKeys(ctx, r.key)
	for {
		now := time.Now()
		word, held, holder, err := s.acquire(ctx, r, keys, token)
		old := decodeMemo(held, r.tag)
		if old != nil && time.Now().After(old.freshUntil.Add(r.stale)) {
			old = nil
		}
		switch {
		case err != nil || word == "marked":
			s.metrics.remembered("load")
			now = time.Now()
			m, err := s.loadOnce(ctx, r)
			return outcome{m, err, now, false}
		case word == "fresh" && old != nil:
			s.metrics.remembered("hit")
			return outcome{old, nil, now, true}
		case word == "lease":
			s.metrics.remembered("load")
			return s.loadAndKeep(ctx, r, token, old)
		case old != nil:
			s.metrics.remembered("stale")
			return outcome{old, nil, now, true}
		}
		s.await(auth.TenantOf(ctx), keys[1], holder)
	}
}

// acquire runs acquireScript.
func (s *Service) acquire(ctx context.Context, r request, keys []string, token string) (word, held, holder string, err error) {
	again := ""
	if r.again {
		again = "1"
	}
	reply, err := s.runMemo(ctx, s.memo.acquire, keys, token, s.lease.Milliseconds(), time.Now().UnixMilli(), tagText(r.tag),
		min(r.lag, MaxLag).Milliseconds(), again)
	parts, _ := reply.([]any)
	if err != nil || len(parts) != 3 {
		return "", "", "", errors.Join(err, errBroken)
	}
	word, _ = parts[0].(string)
	held, _ = parts[1].(string)
	holder, _ = parts[2].(string)
	return word, held, holder, nil
}

func (s *Service) runMemo(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	return s.ask(ctx, s.memoLimit, func(ctx context.Context, c redis.UniversalClient) (any, error) {
		return script.Run(ctx, c, keys, args...).Result()
	})
}

// loadOnce loads a value, and turns a panic into an error.
func (s *Service) loadOnce(ctx context.Context, r request) (m *memo, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, errs.Wrap(fmt.Errorf("%v\n%s", p, debug.Stack()), errs.Internal, "a loader panicked")
		}
	}()
	start := time.Now()
	body, err := r.load(ctx)
	m = &memo{tag: r.tag, loadedAt: start, took: time.Since(start), freshUntil: start.Add(spread(r.ttl)), body: body}
	if errs.Is(err, errs.NotFound) {
		m.absent, m.freshUntil, m.body = true, start.Add(r.absent), []byte("there is nothing")
		if classified := (*errs.Error)(nil); errors.As(err, &classified) {
			m.body = []byte(classified.Message)
		}
		err = nil
	}
	return m, err
}

// loadAndKeep loads a value under a lease, which it renews meanwhile, and stores it. If the load fails, the outcome is the old value
// if there is one, unless it was invalidated.
func (s *Service) loadAndKeep(ctx context.Context, r request, token string, old *memo) (o outcome) {
	defer s.renew(ctx, r.key, token)()
	ended := false
	defer func() {
		if !ended { // The loader has ended its goroutine.
			s.keep(ctx, r.key, token, "", 0)
		}
	}()
	o.asOf = time.Now()
	o.memo, o.err = s.loadOnce(ctx, r)
	ended = true
	value, lasts := "", time.Duration(0)
	switch {
	case o.err != nil && old != nil:
		lasts = retryAfter
	case o.err != nil:
	case int64(len(o.memo.body)) > s.limits.MaxValueSize:
		s.metrics.remembered("too_large")
	default:
		if lasts = o.memo.freshUntil.Sub(o.memo.loadedAt); !o.memo.absent {
			lasts += r.stale
		}
		if lasts >= time.Millisecond {
			value = string(o.memo.encode())
		}
	}
	if now := time.Now(); s.keep(ctx, r.key, token, value, lasts) {
		if o.asOf, o.kept = now, true; o.err != nil && old != nil {
			s.metrics.remembered("stale")
			o.memo, o.err = old, nil
		}
	}
	return o
}

// renew renews a lease until the function that it returns is called. If that fails, another process may load, too.
func (s *Service) renew(ctx context.Context, key Key, token string) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	go func() {
		for loop.Sleep(ctx, s.lease/3) {
			s.keep(ctx, key, token, "", s.lease)
		}
	}()
	return stop
}

// keep runs keepScript, and reports whether the lease was there: nothing was invalidated since it was taken.
func (s *Service) keep(ctx context.Context, key Key, token, value string, lasts time.Duration) bool {
	reply, err := s.runMemo(ctx, s.memo.keep, memoKeys(ctx, key), token, value, lasts.Milliseconds())
	return err == nil && reply == int64(1)
}

// Invalidate has values of Remember loaded again, and loads of them that run now not kept. See InvalidateTx for what a transaction
// changes. Errors: InvalidArgument for a key; Unavailable if Redis is away: then they may stay until they expire.
func (s *Service) Invalidate(ctx context.Context, keys ...string) error {
	parsed, err := parseKeys(keys)
	if err != nil || len(parsed) == 0 {
		return err
	}
	return s.invalidate(ctx, parsed, "none", 0)
}

// invalidate removes what is kept of keys, and sets the mark of a transaction, or ends it with 0.
func (s *Service) invalidate(ctx context.Context, keys []Key, token string, mark time.Duration) error {
	_, err := s.runMemo(ctx, s.memo.invalidate, memoKeys(ctx, keys...), token, mark.Milliseconds())
	s.near.remove(ctx, keys) // Not before it: until then a reader may find the old value in Redis, and keep it near.
	switch {
	case err == nil || ctx.Err() != nil:
		return ctx.Err()
	case kv.Away(err):
		return errs.Wrap(err, errs.Unavailable, "Redis is not available, and the cache is there")
	}
	return errs.Wrap(err, errs.Unavailable, "Redis refuses what the cache asks")
}

func parseKeys(keys []string) ([]Key, error) {
	if len(keys) > MaxKeys {
		return nil, errs.New(errs.InvalidArgument, "keys: at most %d are allowed at once, not %d", MaxKeys, len(keys))
	}
	parsed := make([]Key, len(keys))
	for i, key := range keys {
		var err error
		if parsed[i], err = ParseKey(key); err != nil {
			return nil, err
		}
	}
	return parsed, nil
}
