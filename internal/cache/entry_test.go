package cache_test

import (
	"bytes"
	"context"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/auth"
	"plinth/internal/cache"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
)

func TestCache(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient, forward func(time.Duration)) {
		for name, test := range map[string]func(*testing.T, redis.UniversalClient, func(time.Duration)){
			"values expire": expires, "empty values": empties, "one of many sets an absent key": onlyOneWins, "conditions": conditions,
			"numbers": numbers, "expire": expire, "what is not ours": foreign, "a usage that is gone": usageGone, "quota": quota, "many": many, "tenants are removed": removed,
		} {
			t.Run(name, func(t *testing.T) { test(t, open(t), forward) })
		}
	})
}

func want(t *testing.T, err error, kind errs.Kind) {
	t.Helper()
	if !errs.Is(err, kind) {
		t.Errorf("the error is %v, not of kind %v", err, kind)
	}
}

func set(t *testing.T, ctx context.Context, s *cache.Service, w cache.Write) cache.Stored {
	t.Helper()
	stored, err := s.Set(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// C01, C06
func expires(t *testing.T, client redis.UniversalClient, forward func(time.Duration)) {
	s, ctx, k := newService(client), newTenant(t), key(t, "k")
	stored := set(t, ctx, s, cache.Write{Key: k, Value: []byte("v"), TTL: 100 * time.Millisecond})
	e, err := s.Get(ctx, k)
	if err == nil && (string(e.Value) != "v" || e.Version != stored.Version || e.ExpiresAt.Sub(stored.ExpiresAt).Abs() > patience) {
		t.Errorf("%+v, want %+v", e, stored)
	}
	if forward != nil {
		if err != nil {
			t.Fatal(err)
		}
		forward(100 * time.Millisecond)
	}
	eventually(t, "it expires", func() bool { _, err := s.Get(ctx, k); return errs.Is(err, errs.NotFound) })
	set(t, ctx, s, cache.Write{Key: k})
	if ttl := client.PTTL(ctx, kv.Key(auth.TenantOf(ctx), "cache", "k")).Val(); ttl < cache.DefaultTTL-patience || ttl > cache.DefaultTTL {
		t.Errorf("without a ttl it lasts %v", ttl)
	}
	if ttl := client.PTTL(ctx, kv.Key(auth.TenantOf(ctx), "cache-usage")).Val(); ttl <= 0 {
		t.Errorf("the usage lasts %v", ttl)
	}
	for _, ttl := range []time.Duration{-1, time.Microsecond, cache.MaxTTL + 1} {
		_, err := s.Set(ctx, cache.Write{Key: k, TTL: ttl})
		want(t, err, errs.InvalidArgument)
	}
}

// C02
func empties(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx := newService(client), newTenant(t)
	set(t, ctx, s, cache.Write{Key: key(t, "empty")})
	if e, err := s.Get(ctx, key(t, "empty")); err != nil || len(e.Value) != 0 || e.Version == "" {
		t.Errorf("%+v %v", e, err)
	}
	_, err := s.Get(ctx, key(t, "never"))
	want(t, err, errs.NotFound)
}

// C05
func onlyOneWins(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx := newService(client), newTenant(t)
	for i := range 50 {
		var won atomic.Int32
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				_, err := s.Set(ctx, cache.Write{Key: key(t, strconv.Itoa(i)), If: cache.IfAbsent()})
				if err == nil {
					won.Add(1)
				} else {
					want(t, err, errs.FailedPrecondition)
				}
			})
		}
		if both.Wait(); won.Load() != 1 {
			t.Fatalf("%d won", won.Load())
		}
	}
}

func conditions(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx, k := newService(client), newTenant(t), key(t, "k")
	for _, condition := range []cache.Condition{cache.IfPresent(), cache.IfVersion("x"), cache.IfVersion(strings.Repeat("A", 16))} {
		_, err := s.Set(ctx, cache.Write{Key: k, If: condition})
		want(t, err, errs.FailedPrecondition)
		_, err = s.Delete(ctx, k, condition)
		want(t, err, errs.FailedPrecondition)
	}
	first := set(t, ctx, s, cache.Write{Key: k, Value: []byte("1"), If: cache.IfAbsent()})
	second := set(t, ctx, s, cache.Write{Key: k, Value: []byte("2"), If: cache.IfVersion("x", first.Version)})
	if first.Version == second.Version {
		t.Error("the version is the same")
	}
	_, err := s.Set(ctx, cache.Write{Key: k, Value: []byte("3"), If: cache.IfVersion(first.Version)})
	want(t, err, errs.FailedPrecondition)
	_, err = s.Delete(ctx, k, cache.IfVersion(first.Version))
	want(t, err, errs.FailedPrecondition)
	if e, err := s.Get(ctx, k); err != nil || string(e.Value) != "2" || e.Version != second.Version {
		t.Errorf("%+v %v", e, err)
	}
	if deleted, err := s.Delete(ctx, k, cache.IfVersion(second.Version)); err != nil || !deleted {
		t.Errorf("%v %v", deleted, err)
	}
	if deleted, err := s.Delete(ctx, k, cache.Condition{}); err != nil || deleted {
		t.Errorf("%v %v", deleted, err)
	}
}

// C09
func numbers(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx, k := newService(client), newTenant(t), key(t, "k")
	add := func(delta, sum int64) {
		t.Helper()
		if got, stored, err := s.Increment(ctx, k, delta, time.Hour/2); err != nil || got != sum || stored.Version == "" {
			t.Fatalf("%d more: %d, %+v, %v; want %d", delta, got, stored, err, sum)
		}
	}
	add(5, 5)
	add(-7, -2)
	if ttl := client.PTTL(ctx, kv.Key(auth.TenantOf(ctx), "cache", "k")).Val(); ttl <= 0 || ttl > time.Hour/2 {
		t.Errorf("it lasts %v", ttl)
	}
	if e, err := s.Get(ctx, k); err != nil || string(e.Value) != "-2" {
		t.Errorf("%q %v", e.Value, err)
	}
	add(math.MaxInt64, math.MaxInt64-2)
	add(2, math.MaxInt64)
	for _, value := range []string{"9223372036854775807", "x", "", "+1", " 1", "01", "1.5", "-0", strings.Repeat("9", 25)} {
		stored := set(t, ctx, s, cache.Write{Key: k, Value: []byte(value), TTL: time.Minute})
		_, _, err := s.Increment(ctx, k, 1, time.Hour)
		want(t, err, errs.FailedPrecondition)
		if e, err := s.Get(ctx, k); err != nil || string(e.Value) != value || e.Version != stored.Version || time.Until(e.ExpiresAt) > time.Minute {
			t.Errorf("%q is %+v, %v", value, e, err)
		}
	}
	set(t, ctx, s, cache.Write{Key: k, Value: []byte("-9223372036854775808")})
	_, _, err := s.Increment(ctx, k, math.MinInt64, 0)
	want(t, err, errs.FailedPrecondition)
	add(math.MaxInt64, -1)
	_, _, err = s.Increment(ctx, key(t, "new"), 1, cache.MaxTTL+1)
	want(t, err, errs.InvalidArgument)
}

func expire(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx, k := newService(client), newTenant(t), key(t, "k")
	_, err := s.Expire(ctx, k, time.Minute)
	want(t, err, errs.NotFound)
	stored := set(t, ctx, s, cache.Write{Key: k, Value: []byte("v"), TTL: time.Hour})
	if later, err := s.Expire(ctx, k, time.Minute); err != nil || later.Version != stored.Version {
		t.Errorf("%+v %v", later, err)
	}
	if e, err := s.Get(ctx, k); err != nil || e.Version != stored.Version || time.Until(e.ExpiresAt) > time.Minute {
		t.Errorf("%+v %v", e, err)
	}
}

// C15
func foreign(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx, k := newService(client), newTenant(t), key(t, "k")
	name, usage := kv.Key(auth.TenantOf(ctx), "cache", "k"), kv.Key(auth.TenantOf(ctx), "cache-usage")
	for what, put := range map[string]func() error{
		"a list":              func() error { return client.LPush(ctx, name, "x").Err() },
		"garbage":             func() error { return client.Set(ctx, name, strings.Repeat("garbage ", 9), time.Hour).Err() },
		"half a head":         func() error { return client.Set(ctx, name, "\xc1\x01abc", time.Hour).Err() },
		"what never expires":  func() error { return client.Set(ctx, name, "\xc1\x01abcdefghijklvalue", 0).Err() },
		"a usage that is not": func() error { return client.LPush(ctx, usage, "x").Err() },
	} {
		t.Run(what, func(t *testing.T) {
			for use, call := range map[string]func() error{
				"Get":       func() error { _, err := s.Get(ctx, k); want(t, err, errs.NotFound); return nil },
				"Expire":    func() error { _, err := s.Expire(ctx, k, time.Minute); want(t, err, errs.NotFound); return nil },
				"Set":       func() error { _, err := s.Set(ctx, cache.Write{Key: k, Value: []byte("v")}); return err },
				"absent":    func() error { _, err := s.Set(ctx, cache.Write{Key: k, If: cache.IfAbsent()}); return err },
				"Increment": func() error { _, _, err := s.Increment(ctx, k, 1, 0); return err },
				"Delete": func() error {
					deleted, err := s.Delete(ctx, k, cache.Condition{})
					if deleted {
						t.Error("it was a value")
					}
					return err
				},
			} {
				if err := client.Del(ctx, name, usage).Err(); err != nil {
					t.Fatal(err)
				}
				if err := put(); err != nil {
					t.Fatal(err)
				}
				if err := call(); err != nil {
					t.Errorf("%s: %v", use, err)
				}
				if _, err := s.Set(ctx, cache.Write{Key: k, Value: []byte("repaired")}); err != nil {
					t.Errorf("after %s: %v", use, err)
				}
				if e, err := s.Get(ctx, k); err != nil || string(e.Value) != "repaired" {
					t.Errorf("after %s: %q %v", use, e.Value, err)
				}
			}
		})
	}
}

// usageGone loses what is counted, as by an eviction, or has something else among it. Values can be set and removed all the same.
func usageGone(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx, k := newService(client), newTenant(t), key(t, "k")
	usage := kv.Key(auth.TenantOf(ctx), "cache-usage")
	now := func(in time.Duration) string { return strconv.FormatInt(time.Now().Add(in).UnixMilli()/256_000, 10) }
	for what, fields := range map[string][]any{
		"nothing":       nil,
		"a total":       {"total", "x", "swept", now(0)},
		"a sweep":       {"total", "1", "swept", "x"},
		"bytes":         {now(cache.DefaultTTL), "x", "total", "1", "swept", now(0)},
		"unswept bytes": {now(cache.DefaultTTL), "1.5"},
		"large bytes":   {now(cache.DefaultTTL), "9223372036854775807", "total", "1", "swept", now(0)},
		"a bucket":      {"nan", "1", "inf", "2", "", "3"},
	} {
		for use, call := range map[string]func() error{
			"Set":    func() error { _, err := s.Set(ctx, cache.Write{Key: k, Value: []byte("longer")}); return err },
			"Expire": func() error { _, err := s.Expire(ctx, k, time.Minute); return err },
			"Delete": func() error { _, err := s.Delete(ctx, k, cache.Condition{}); return err },
		} {
			set(t, ctx, s, cache.Write{Key: k, Value: []byte("v")})
			if err := client.Del(ctx, usage).Err(); err != nil {
				t.Fatal(err)
			}
			if fields != nil {
				if err := client.HSet(ctx, usage, fields...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			if err := call(); err != nil {
				t.Errorf("%s in place of what is counted, %s: %v", what, use, err)
			}
		}
		if err := client.Del(ctx, usage).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func quota(t *testing.T, client redis.UniversalClient, forward func(time.Duration)) {
	s, ctx := newService(client, cache.Limits{MaxValueSize: 1 << 20, MaxBytes: 10_000}), newTenant(t)
	big := make([]byte, 4_000)
	for range 5 { // The same key takes no more.
		set(t, ctx, s, cache.Write{Key: key(t, "1"), Value: big})
	}
	set(t, ctx, s, cache.Write{Key: key(t, "2"), Value: big})
	_, err := s.Set(ctx, cache.Write{Key: key(t, "3"), Value: big})
	want(t, err, errs.ResourceExhausted)
	if _, err := s.Expire(ctx, key(t, "1"), cache.MaxTTL); err != nil { // It is counted elsewhere now, and not twice.
		t.Fatal(err)
	}
	if _, err := s.Delete(ctx, key(t, "1"), cache.Condition{}); err != nil {
		t.Fatal(err)
	}
	set(t, ctx, s, cache.Write{Key: key(t, "3"), Value: big, TTL: time.Millisecond})
	set(t, ctx, s, cache.Write{Key: key(t, "2"), Value: nil})
	set(t, ctx, s, cache.Write{Key: key(t, "4"), Value: big})
	if _, _, err := s.Increment(ctx, key(t, "5"), 1, 0); err != nil {
		t.Error(err)
	}
	total, err := client.HGet(ctx, kv.Key(auth.TenantOf(ctx), "cache-usage"), "total").Int()
	if least := 2 * 4_000; err != nil || total < least || total > least+500 {
		t.Errorf("%d bytes are counted, %v", total, err)
	}
}

// C07
func many(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx := newService(client), newTenant(t)
	writes, keys := make([]cache.Write, cache.MaxKeys), make([]cache.Key, cache.MaxKeys)
	for i := range writes {
		keys[i] = key(t, strconv.Itoa(i))
		writes[i] = cache.Write{Key: keys[i], Value: []byte(strconv.Itoa(i))}
	}
	writes[3].Value, writes[4].If = make([]byte, 1<<20+1), cache.IfPresent()
	results, err := s.SetMany(ctx, writes)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.GetMany(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		switch i {
		case 3:
			want(t, r.Err, errs.InvalidArgument)
			want(t, entries[i].Err, errs.NotFound)
		case 4:
			want(t, r.Err, errs.FailedPrecondition)
			want(t, entries[i].Err, errs.NotFound)
		default:
			if r.Err != nil || entries[i].Err != nil || entries[i].Version != r.Version || string(entries[i].Value) != strconv.Itoa(i) {
				t.Errorf("%d: %+v %+v", i, r, entries[i])
			}
		}
	}
	big := bytes.Repeat([]byte("x"), 1<<20)
	for i := range 4 {
		set(t, ctx, s, cache.Write{Key: keys[i], Value: big})
	}
	entries, err = s.GetMany(ctx, keys[:6])
	if err != nil || !bytes.Equal(entries[1].Value, big) || entries[5].Err != nil {
		t.Errorf("%v", err)
	}
	want(t, entries[3].Err, errs.ResourceExhausted)
	_, err = s.GetMany(ctx, append(keys, keys[0]))
	want(t, err, errs.InvalidArgument)
	_, err = cache.ParseKey(strings.Repeat("k", cache.MaxKey+1))
	want(t, err, errs.InvalidArgument)
	set(t, ctx, s, cache.Write{Key: key(t, strings.Repeat("k", cache.MaxKey))})
}

func removed(t *testing.T, client redis.UniversalClient, _ func(time.Duration)) {
	s, ctx, other := newService(client), newTenant(t), newTenant(t)
	for _, ctx := range []context.Context{ctx, other} {
		set(t, ctx, s, cache.Write{Key: key(t, "k"), Value: []byte("v")})
	}
	eventually(t, "it is removed", func() bool {
		done, err := s.RemoveTenant(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
	_, err := s.Get(ctx, key(t, "k"))
	want(t, err, errs.NotFound)
	if n := client.Exists(ctx, kv.Key(auth.TenantOf(ctx), "cache-usage")).Val(); n != 0 {
		t.Error("its usage is there")
	}
	if _, err := s.Get(other, key(t, "k")); err != nil {
		t.Errorf("of another tenant: %v", err)
	}
}

// TestAway kills Redis. C11
func TestAway(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	s, ctx, k := newService(opener(server.URL)(t)), newTenant(t), key(t, "k")
	set(t, ctx, s, cache.Write{Key: k, Value: []byte("v")})
	s.SetReplyLimit(cache.ReplyLimit)
	server.Kill()
	fastest := time.Hour
	for i := range 20 {
		start := time.Now()
		_, err := s.Get(ctx, k)
		want(t, err, errs.Unavailable)
		if took := time.Since(start); i > 0 {
			fastest = min(fastest, took)
		} else if took > patience {
			t.Errorf("the first call took %v", took)
		}
		_, err = s.Set(ctx, cache.Write{Key: k})
		want(t, err, errs.Unavailable)
	}
	if fastest > 5*time.Millisecond {
		t.Errorf("later calls take %v", fastest)
	}
}
