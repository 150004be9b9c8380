package ratelimit_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/kv/kvtest"
	"plinth/internal/ratelimit"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := kvtest.NewCluster(t, nil)
	for name, test := range map[string]func(*testing.T, string){
		"exact among processes": exactAmongProcesses, "all or nothing": allOrNothing, "reported": reported, "keys expire": keysExpire,
		"tenants": severalTenants,
	} {
		t.Run(name, func(t *testing.T) { test(t, cluster.URL) })
	}
	// From here on, one node's tenants have no Redis.
	t.Run("a node is killed", func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		l := newLimiter(t, cluster.URL, zap.New(core), time.Now)
		l.SetReplyLimit(500 * time.Millisecond)
		l.Take(t.Context(), 1, limitOf(t, 5, time.Hour))
		cluster.Nodes[0].Kill()
		for i := range 30 {
			limit := limitOf(t, 5, 1_000*time.Hour)
			limit.Tenant = fmt.Sprintf("t%d", i)
			if n := l.until(t, limit); n != 5 {
				t.Errorf("%d of 5 allowed", n)
			}
		}
		lines(t, logs, zapcore.WarnLevel)
	})
}

// severalTenants takes limits of several tenants at once, which no script of a Cluster may.
func severalTenants(t *testing.T, url string) {
	core, logs := observer.New(zap.InfoLevel)
	l, other := newLimiter(t, url, zap.New(core), time.Now), newLimiter(t, url, zap.NewNop(), time.Now)
	var limits []ratelimit.Limit
	for _, tenant := range []string{"acme", "default", "other"} {
		limit := limitOf(t, 10, 1_000*time.Hour)
		limit.Tenant = tenant
		limits = append(limits, limit)
	}
	for i := range int64(4) {
		if d := l.Take(t.Context(), 1, limits...); !d.Allowed || d.Remaining != 9-i {
			t.Fatalf("%+v", d)
		}
	}
	// The last of them is used up by another process, so that l has taken of the others when it is refused.
	other.until(t, limits[2])
	for range 5 {
		if d := l.Take(t.Context(), 1, limits...); d.Allowed || d.Kind != limits[2].Kind {
			t.Fatalf("%+v", d)
		}
	}
	l.Report()
	for _, limit := range limits[:2] {
		if n := other.until(t, limit); n != 6 {
			t.Errorf("%d of 6 are left to %s", n, limit.Tenant)
		}
	}
	lines(t, logs)
}

// TestSentinel kills the primary, so that the replica takes over.
func TestSentinel(t *testing.T) {
	t.Parallel()
	sentinels := kvtest.NewSentinels(t, nil)
	core, logs := observer.New(zap.InfoLevel)
	l := newLimiter(t, sentinels.URL, zap.New(core), time.Now)
	limit := limitOf(t, 50, 1_000*time.Hour)
	for range 40 {
		l.Take(t.Context(), 1, limit)
	}
	l.SetReplyLimit(500 * time.Millisecond)
	sentinels.Primary.Kill()
	if d := l.Take(t.Context(), 1, limit); !d.Allowed || d.Remaining != 9 {
		t.Errorf("%+v", d)
	}
	lines(t, logs, zapcore.WarnLevel)
	sentinels.Wait(t, "the limiter finds the new primary", func() bool {
		l.Take(t.Context(), 1, limitOf(t, 1, time.Hour))
		return logs.FilterLevelExact(zapcore.InfoLevel).Len() > 0
	})
	lines(t, logs, zapcore.WarnLevel, zapcore.InfoLevel)
}

// TestRefused uses a Redis that answers, but refuses the script. That is not an outage that passes by itself, and it is
// logged once.
func TestRefused(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	c := newClock(t)
	l := newLimiter(t, "redis://"+c.Addr(), zap.New(core), c.now)
	limit := limitOf(t, 20, 1_000*time.Hour)
	l.Take(t.Context(), 5, limit)
	c.SetError("NOPERM User default has no permissions to run the 'evalsha' command")
	if n := l.until(t, limit); n != 15 {
		t.Errorf("%d allowed of the 15 that were left", n)
	}
	lines(t, logs, zapcore.ErrorLevel)
	asked := l.asked.Load()
	c.pass(time.Second)
	l.Take(t.Context(), 1, limit)
	eventually(t, "a probe", func() bool { return l.asked.Load() > asked })
	lines(t, logs, zapcore.ErrorLevel)
	c.SetError("LOADING Redis is loading the dataset in memory")
	probed := func() bool {
		c.pass(time.Second)
		l.Take(t.Context(), 1, limit)
		return true
	}
	eventually(t, "it is away", func() bool { return probed() && logs.Len() == 2 })
	lines(t, logs, zapcore.ErrorLevel, zapcore.WarnLevel)
	c.SetError("")
	eventually(t, "it is back", func() bool { return probed() && logs.Len() == 3 })
	lines(t, logs, zapcore.ErrorLevel, zapcore.WarnLevel, zapcore.InfoLevel)
}
