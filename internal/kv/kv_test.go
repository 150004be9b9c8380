package kv_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
	"plinth/internal/pg/pgtest"
)

// trusted is an authority that this process trusts like those of the system.
var trusted *kvtest.Authority

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "plinth-kv-")
	if err == nil {
		defer os.RemoveAll(folder)
		trusted, err = kvtest.NewAuthority(folder)
	}
	if err == nil {
		err = pgtest.SetParallel("8") // They wait for servers to find each other.
	}
	if err == nil {
		err = os.Setenv("SSL_CERT_FILE", trusted.File) // Read when the first certificate is verified.
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func open(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := kv.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// incr is a script with two keys.
var incr = redis.NewScript(`redis.call('INCR', KEYS[1]) return redis.call('INCRBY', KEYS[2], ARGV[1])`)

// works checks that a client can write and read, and run scripts with keys of many tenants, several of each.
func works(t *testing.T, client redis.UniversalClient) {
	t.Helper()
	for i := range 50 {
		tenant := fmt.Sprintf("tenant-%d", i)
		one, two := kv.Key(tenant, "test", "one"), kv.Key(tenant, "test", "two")
		if err := client.Set(t.Context(), one, 1, 0).Err(); err != nil {
			t.Fatalf("SET: %v", err)
		}
		if n, err := incr.Run(t.Context(), client, []string{one, two}, 5).Int(); n != 5 || err != nil {
			t.Fatalf("script: %d, %v", n, err)
		}
		if values, err := client.MGet(t.Context(), one, two).Result(); err != nil || values[0] != "2" || values[1] != "5" {
			t.Fatalf("MGET: %v, %v", values, err)
		}
		if err := client.Del(t.Context(), one, two).Err(); err != nil {
			t.Fatalf("DEL: %v", err)
		}
	}
}

func TestSingle(t *testing.T) {
	t.Parallel()
	for name, authority := range map[string]*kvtest.Authority{"plain": nil, "TLS": trusted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := kvtest.New(t, authority)
			works(t, open(t, server.URL+"/3"))
			none := open(t, strings.Replace(server.URL, "default:", "default:x", 1))
			if err := none.Ping(t.Context()).Err(); err == nil || kv.Away(err) {
				t.Errorf("with a wrong password: %v", err)
			}
			server.Kill()
			if err := open(t, server.URL).Ping(t.Context()).Err(); !kv.Away(err) {
				t.Errorf("when it is gone: %v", err)
			}
		})
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	for name, authority := range map[string]*kvtest.Authority{"plain": nil, "TLS": trusted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := kvtest.NewCluster(t, authority)
			hosts, at := cluster.URL, strings.LastIndex(cluster.URL, "@")+1
			first, rest, _ := strings.Cut(hosts[at:], ",")
			first = hosts[:at] + first
			for name, url := range map[string]string{
				"hosts":       hosts,
				"addr":        first + "?addr=" + strings.ReplaceAll(rest, ",", "&addr="),
				"one host":    first + "/0?cluster=true",
				"a dead host": hosts[:at] + "localhost:1," + hosts[at:], // for whose name there is no certificate
			} {
				t.Run(name, func(t *testing.T) { works(t, open(t, url)) })
			}
			client := open(t, hosts)
			err := incr.Run(t.Context(), client, []string{kv.Key("a", "x"), kv.Key("b", "x")}, 1).Err()
			if !redis.HasErrorPrefix(err, "CROSSSLOT") || kv.Away(err) {
				t.Errorf("keys of two tenants: %v", err)
			}
			if err := open(t, first).Get(t.Context(), kv.Key("tenant-1", "x")).Err(); err != nil && kv.Away(err) {
				t.Errorf("without cluster=true: %v", err)
			}
		})
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	for name, authority := range map[string]*kvtest.Authority{"plain": nil, "TLS": trusted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sentinels := kvtest.NewSentinels(t, authority)
			client := open(t, sentinels.URL)
			works(t, client)
			other := open(t, strings.Replace(sentinels.URL, "master_name=", "master_name=other", 1))
			if err := other.Ping(t.Context()).Err(); err == nil || kv.Away(err) {
				t.Errorf("of another name: %v", err)
			}
			if err := open(t, sentinels.ReplicaURL()).Set(t.Context(), "x", 1, 0).Err(); !kv.Away(err) {
				t.Errorf("a replica that is written to: %v", err)
			}
			sentinels.Primary.Kill()
			sentinels.Wait(t, "the replica is the primary", func() bool {
				err := client.Set(t.Context(), "x", 1, 0).Err()
				if err != nil && !kv.Away(err) {
					t.Fatalf("while another primary is chosen: %v", err)
				}
				return err == nil
			})
			works(t, client)
		})
	}
}

// TestCertificates connects to a server whose certificate is of an authority that is not trusted.
func TestCertificates(t *testing.T) {
	t.Parallel()
	stranger, err := kvtest.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := kvtest.New(t, stranger)
	if err := open(t, server.URL).Ping(t.Context()).Err(); err == nil || kv.Away(err) {
		t.Errorf("a certificate of a stranger: %v", err)
	}
}

// What the client itself logs goes to the log, not to standard error.
func TestLogTo(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	kv.LogTo(zap.New(core))
	t.Cleanup(func() { kv.LogTo(zap.NewNop()) })
	if err := open(t, "redis://127.0.0.1:1").Ping(t.Context()).Err(); !kv.Away(err) || logs.Len() == 0 {
		t.Errorf("%v, %d lines", err, logs.Len())
	}
}
