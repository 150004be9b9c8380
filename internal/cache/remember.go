package cache

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"reflect"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

const (
	defaultStale  = time.Minute      // for how long a stale value covers a loader that fails
	defaultAbsent = 10 * time.Second // for how long it is remembered that there is nothing
	// MaxLag is the longest Lag.
	MaxLag = time.Minute
)

// Option changes a Remember.
type Option func(*request)

// StaleFor sets for how long after its TTL a value is returned while it is loaded anew, and if its loader fails. The default is
// the TTL, up to a minute; 0 is not at all. After an invalidation there is no such value.
func StaleFor(d time.Duration) Option { return func(r *request) { r.stale = d } }

// AbsentFor sets for how long it is remembered that a loader returned errs.NotFound. The default is the TTL, up to 10 seconds; 0 is
// not at all.
func AbsentFor(d time.Duration) Option { return func(r *request) { r.absent = d } }

// Lag says that what the loader reads may be old by d, up to MaxLag, since it reads a replica. For as long after an invalidation
// nothing that it loads is kept.
func Lag(d time.Duration) Option { return func(r *request) { r.lag = d } }

// Age has a Remember set to to how long ago the value that it returns was loaded.
func Age(to *time.Duration) Option { return func(r *request) { r.age = to } }

// request is what Remember is asked for.
type request struct {
	key                     Key
	tag                     uint64
	ttl, stale, absent, lag time.Duration
	age                     *time.Duration
	near                    time.Duration
	again                   bool // load even if there is a fresh value
	load                    func(context.Context) ([]byte, error)
}

// Remember returns what load returned before for the key, for the tenant of ctx, or calls load. T is a proto message, or a type
// that JSON encodes and decodes again.
//
// A value is fresh for its ttl, 1 ms to MaxTTL, less a random part of up to a tenth. When it is about to end, or is stale, one
// caller in the cluster loads it anew, and the others get the one that there is. Without a value they wait for that load. It is
// not cut short by the end of the caller's ctx, has a minute, and carries the values of ctx. If load returns errs.NotFound, that is
// remembered too; if it fails otherwise, there may be a stale value, for which load is tried once a second.
//
// While Redis is away, each process loads for itself, one at a time for each key. Keys are 1 to MaxKey bytes, and are not those of
// Get and Set. Errors: those of load; InvalidArgument for a key or a ttl.
func Remember[T any](ctx context.Context, s *Service, key string, ttl time.Duration, load func(context.Context) (T, error), options ...Option) (T, error) {
	var none T
	k, err := ParseKey(key)
	if err != nil {
		return none, err
	}
	if ttl, err = checkTTL(ttl); err != nil {
		return none, err
	}
	r := request{key: k, ttl: ttl, stale: min(ttl, defaultStale), absent: min(ttl, defaultAbsent)}
	for _, option := range options {
		option(&r)
	}
	if r.near <= 0 {
		v, _, err := recallAs(ctx, s, r, load)
		return v, err
	}
	at := nearKey{auth.TenantOf(ctx), key}
	if v, ok, err := nearby[T](s, at, &r); ok {
		return v, err
	}
	age := s.near.ageOf(at).Load()
	v, o, err := recallAs(ctx, s, r, load)
	if err == nil || o.memo != nil && o.memo.absent {
		keepNear(s, at, age, &r, o, v)
	}
	return v, err
}

// recallAs returns an outcome, and what it is as a T.
func recallAs[T any](ctx context.Context, s *Service, r request, load func(context.Context) (T, error)) (v T, o outcome, err error) {
	r.tag = s.tags.of(reflect.TypeFor[T]())
	r.load = func(ctx context.Context) ([]byte, error) {
		v, err := load(ctx)
		if err != nil {
			return nil, err
		}
		body, err := encodeValue(v)
		if err != nil {
			return nil, errs.Wrap(err, errs.Internal, "a %T cannot be kept in the cache", v)
		}
		return body, nil
	}
	if o, err = s.recall(ctx, r); err != nil {
		return v, o, err
	}
	if v, err = decodeOnce[T](o.memo, r.age); err != nil && !o.memo.absent {
		s.metrics.remembered("broken")
		r.again = true
		if o, err = s.recall(ctx, r); err == nil {
			v, err = decodeOnce[T](o.memo, r.age)
		}
	}
	return v, o, err
}

func decodeOnce[T any](m *memo, age *time.Duration) (v T, err error) {
	if age != nil {
		*age = max(0, time.Since(m.loadedAt))
	}
	if m.absent {
		return v, errs.New(errs.NotFound, "%s", m.body)
	}
	if v, err = decodeValue[T](m.body); err != nil {
		return v, errs.Wrap(err, errs.Internal, "a value in the cache is no %T", v)
	}
	return v, nil
}

// recall returns a memo: from Redis, or by loading.
func (s *Service) recall(ctx context.Context, r request) (outcome, error) {
	came := time.Now()
	for {
		o, err := s.recallOnce(ctx, r)
		if err != nil || !came.After(o.asOf) {
			return o, cmp.Or(err, o.err)
		}
	}
}

func (s *Service) recallOnce(ctx context.Context, r request) (outcome, error) {
	asked := time.Now()
	seen := s.peek(ctx, r)
	now := time.Now()
	fresh := seen != nil && now.Before(seen.freshUntil) && !r.again
	if fresh && !early(seen, now) {
		s.metrics.remembered("hit")
		return outcome{seen, nil, asked, true}, nil
	}
	r.again = r.again || fresh
	f, first := s.join(ctx, r)
	if fresh {
		s.metrics.remembered("hit")
		return outcome{seen, nil, asked, true}, nil
	}
	if !first && seen != nil && now.Before(seen.freshUntil.Add(r.stale)) {
		s.metrics.remembered("stale")
		return outcome{seen, nil, asked, true}, nil
	}
	select {
	case <-f.done:
		return f.outcome, nil
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
}

// early reports whether a fresh value is to be loaded anew: more likely the closer its end is, and the longer a load takes, so that
// one reader in the cluster does it before all others have to wait (XFetch, Vattani, Chierichetti, Lowenstein 2015).
func early(m *memo, now time.Time) bool {
	ahead := time.Duration(float64(m.took) * -math.Log(1-rand.Float64()))
	return !now.Add(ahead).Before(m.freshUntil)
}

// spread returns a TTL less a random part of up to a tenth, so that what was kept together does not end together.
func spread(ttl time.Duration) time.Duration { return ttl - rand.N(ttl/10+1) }
