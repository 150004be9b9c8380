package kv_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
)

// bound is far more than the limits of the calls below, and less than the client waits by itself.
const bound = 2500 * time.Millisecond

func get(key string, to *string) func(context.Context, redis.UniversalClient) error {
	return func(ctx context.Context, c redis.UniversalClient) (err error) {
		*to, err = c.Get(ctx, key).Result()
		return err
	}
}

// blackHole returns an address that never answers a connection: as many wait there as may.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for {
		waiting, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = waiting.Close() })
	}
}

// TestBounded has calls end in time, whatever the client waits for.
func TestBounded(t *testing.T) {
	t.Parallel()
	for name, freeze := range map[string]func(t *testing.T) redis.UniversalClient{
		"a server that stands still": func(t *testing.T) redis.UniversalClient {
			server := kvtest.New(t, nil)
			client := open(t, server.URL)
			works(t, client)
			server.Pause(t)
			return client
		},
		"a server that stands still, before the first connection": func(t *testing.T) redis.UniversalClient {
			server := kvtest.New(t, nil)
			server.Pause(t)
			return open(t, server.URL)
		},
		"no answer to a connection": func(t *testing.T) redis.UniversalClient { return open(t, "redis://"+blackHole(t)) },
		"a Cluster that stands still": func(t *testing.T) redis.UniversalClient {
			cluster := kvtest.NewCluster(t, nil)
			client := open(t, cluster.URL)
			if err := kv.Ping(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			for _, node := range cluster.Nodes {
				node.Pause(t)
			}
			return client
		},
		"a Cluster that stands still, before the first connection": func(t *testing.T) redis.UniversalClient {
			cluster := kvtest.NewCluster(t, nil)
			for _, node := range cluster.Nodes {
				node.Pause(t)
			}
			return open(t, cluster.URL)
		},
		"a node of a Cluster that leads to one that stands still": func(t *testing.T) redis.UniversalClient {
			cluster := kvtest.NewCluster(t, nil)
			client := open(t, strings.Replace(cluster.URL, cluster.Nodes[2].Addr, blackHole(t), 1))
			cluster.Nodes[2].Pause(t) // It has tenant-1's keys.
			return client
		},
		"Sentinels whose primary stands still": func(t *testing.T) redis.UniversalClient {
			sentinels := kvtest.NewSentinels(t, nil)
			client := open(t, sentinels.URL)
			works(t, client)
			sentinels.Primary.Pause(t)
			return client
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := freeze(t)
			var value string
			ask := get(kv.Key("tenant-1", "x"), &value)

			guard := kv.NewGuard(client)
			start := time.Now()
			ending, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := guard.Do(ending, "tenant-1", time.Minute, ask); !errors.Is(err, context.DeadlineExceeded) || ending.Err() == nil {
				t.Errorf("a call with a deadline: %v", err)
			}
			if took := time.Since(start); took > bound {
				t.Errorf("a call with a deadline took %v", took)
			}
			if err := guard.Do(t.Context(), "tenant-1", 0, ask); !kv.Away(err) || strings.Contains(err.Error(), "known") {
				t.Errorf("a call with a deadline counts: %v", err)
			}

			guard, start = kv.NewGuard(client), time.Now()
			var calls sync.WaitGroup
			for range 100 {
				calls.Go(func() {
					var value string
					if err := guard.Do(t.Context(), "tenant-1", 50*time.Millisecond, get(kv.Key("tenant-1", "x"), &value)); !kv.Away(err) {
						t.Errorf("%q, %v", value, err)
					}
				})
			}
			calls.Wait()
			if took := time.Since(start); took > bound {
				t.Errorf("they took %v", took)
			}
		})
	}
}

// late is a context that notices its deadline after everybody else.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now(), true }

// What is cut short by the caller's deadline does not count as Redis being away.
func TestDeadlineIsNotAway(t *testing.T) {
	t.Parallel()
	guard := kv.NewGuard(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cut := func(context.Context, redis.UniversalClient) error { return os.ErrDeadlineExceeded }
	if err := guard.Do(late{ctx}, "t", time.Minute, cut); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := guard.Do(t.Context(), "t", time.Minute, func(context.Context, redis.UniversalClient) error { return nil }); err != nil {
		t.Error(err)
	}
}

// TestGivenUp has calls given up while their replies are still to come: those go to nobody else.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	client := open(t, server.URL)
	all := make([]string, 200)
	for i := range all {
		if err := client.Set(t.Context(), kv.Key("t", strconv.Itoa(i)), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(limit time.Duration, guard *kv.Guard) (failed int) {
		var calls sync.WaitGroup
		var mu sync.Mutex
		for i := range all {
			calls.Go(func() {
				var value string
				err := guard.Do(t.Context(), "t", limit, get(kv.Key("t", strconv.Itoa(i)), &value))
				if err == nil && value != strconv.Itoa(i) {
					t.Errorf("%q of %d", value, i)
				}
				if err != nil {
					mu.Lock()
					failed++
					mu.Unlock()
				}
			})
		}
		calls.Wait()
		return failed
	}
	if n := ask(time.Minute, kv.NewGuard(client)); n > 0 {
		t.Fatalf("%d failed", n)
	}
	server.Pause(t)
	if n := ask(20*time.Millisecond, kv.NewGuard(client)); n != len(all) {
		t.Errorf("%d failed of a server that stands still", n)
	}
	server.Resume(t)
	if n := ask(time.Minute, kv.NewGuard(client)); n > 0 {
		t.Errorf("%d failed of a server that goes on", n)
	}
}

// A Cluster is there if all of its nodes are.
func TestPing(t *testing.T) {
	t.Parallel()
	cluster := kvtest.NewCluster(t, nil)
	client := open(t, cluster.URL)
	if err := kv.Ping(t.Context(), client); err != nil {
		t.Error(err)
	}
	cluster.Nodes[1].Kill()
	if err := kv.Ping(t.Context(), client); !kv.Away(err) {
		t.Errorf("without a node: %v", err)
	}
}
