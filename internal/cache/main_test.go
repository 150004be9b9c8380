package cache_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/cache"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	kv.LogTo(zap.NewNop())
	if os.Getenv(racerDatabase) != "" {
		os.Exit(racer())
	}
	if err := pgtest.SetParallel("8"); err != nil { // They wait for leases and for the relay.
		panic(err)
	}
	os.Exit(pgtest.Main(m))
}

// patience bounds every wait; no healthy machine needs it.
const patience = 30 * time.Second

// onEveryRedis runs a test on every kind of Redis: in memory, one server, and a Cluster. forward lets time pass where it does not by itself.
func onEveryRedis(t *testing.T, test func(t *testing.T, open func(t *testing.T) redis.UniversalClient, forward func(time.Duration))) {
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		server := miniredis.RunT(t)
		test(t, opener("redis://"+server.Addr()), server.FastForward)
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		url := os.Getenv("REDIS_URL")
		if url == "" {
			url = kvtest.New(t, nil).URL
		}
		test(t, opener(url), nil)
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		test(t, opener(kvtest.NewCluster(t, nil).URL), nil)
	})
}

func opener(url string) func(t *testing.T) redis.UniversalClient {
	return func(t *testing.T) redis.UniversalClient {
		t.Helper()
		client, err := kv.Open(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
}

// newTenant returns a context of a tenant that nothing else acts for.
func newTenant(t testing.TB) context.Context {
	t.Helper()
	return auth.AsService(t.Context(), "t-"+uuid.NewString()[:13])
}

// newService returns a service that waits for a Redis which is slow because the machine is.
func newService(client redis.UniversalClient, limits ...cache.Limits) *cache.Service {
	limits = append(limits, cache.Limits{MaxValueSize: 1 << 20})
	s := cache.New(cache.Config{Redis: client, Limits: limits[0]})
	s.SetReplyLimit(patience)
	return s
}

func key(t testing.TB, name string) cache.Key {
	t.Helper()
	k, err := cache.ParseKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// eventually waits until something is.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
