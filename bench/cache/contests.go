package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	cachev1 "plinth/api/plinth/cache/v1"
	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/broker/postgres"
	"plinth/internal/cache"
	"plinth/internal/kv"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/rpc"
)

// tenant is whose keys are used.
const tenant = "bench-cache"

// order is a value of usual size.
type order struct {
	ID       string   `json:"id"`
	Customer string   `json:"customer"`
	Total    int64    `json:"total"`
	Lines    []string `json:"lines"`
}

var anOrder = order{"0198c0de-0000-7000-8000-000000000000", "customer-1", 4_200, []string{"one", "two", "three"}}

// bench is what the contests use.
type bench struct {
	ends  []func()
	cache *cache.Service
	db    *pg.DB
	redis redis.UniversalClient
	rpc   cachev1.CacheServiceClient
	bare  string // the key of the bare GET
	loads atomic.Int64
}

func (b *bench) close() {
	for _, end := range slices.Backward(b.ends) {
		end()
	}
}

func open(ctx context.Context) (*bench, error) {
	debug.SetGCPercent(rpc.GCPercent) // As app.Main does.
	b := &bench{bare: kv.Key(tenant, "bench")}
	databaseURL, drop, err := scratch.Database(ctx)
	if err != nil {
		return b, err
	}
	b.ends = append(b.ends, func() { _ = drop() })
	if b.redis, err = kv.Open(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379/0")); err != nil {
		return b, err
	}
	if b.db, err = pg.Open(ctx, pg.Config{URL: databaseURL, MaxConns: 8}); err != nil {
		return b, err
	}
	b.ends = append(b.ends, b.db.Close)
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: b.db.System(), URL: databaseURL, Log: zap.NewNop()})
	if err != nil {
		return b, err
	}
	messages := message.New(message.Config{
		DB: b.db, Handlers: b.db, System: b.db.System(), Notifier: notifier, Broker: postgres.New(b.db.System(), notifier, zap.NewNop()), Log: zap.NewNop(),
	})
	b.cache = cache.New(cache.Config{Redis: b.redis, Messages: messages, Limits: cache.Limits{MaxValueSize: 1 << 20, ReplyTimeout: 90 * time.Millisecond}})
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { notifier.Run(parts) })
	running.Go(func() { _ = messages.Relay(parts) })
	running.Go(func() { _ = b.cache.Run(parts) })
	b.ends = append(b.ends, func() { stop(); running.Wait() })
	if err := b.serve(); err != nil {
		return b, err
	}
	b.ends = append(b.ends, func() {
		_ = b.redis.Del(context.WithoutCancel(ctx), b.bare).Err()
		_, _ = b.cache.RemoveTenant(acting(context.WithoutCancel(ctx)))
	})
	return b, b.prepare(acting(ctx))
}

func acting(ctx context.Context) context.Context { return auth.AsService(ctx, tenant) }

// serve has the cache behind the production stack, on a port of this machine.
func (b *bench) serve() error {
	stack := rpc.New(rpc.Config{
		Log: zap.NewNop(), Timeout: time.Minute, Draining: context.Background(),
		Authenticate: func(context.Context, string) (*auth.Principal, error) {
			return &auth.Principal{ID: "key:1", Tenant: auth.Tenant{Name: tenant}, Scopes: []string{auth.All}}, nil
		},
	})
	handler, err := stack.Handler([]rpc.Service{func(o ...connect.HandlerOption) (string, http.Handler) {
		return cachev1.NewCacheServiceHandler(cache.NewRPC(b.cache), o...)
	}}, nil)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := rpc.NewServer(handler, zap.NewNop())
	go func() { _ = server.Serve(listener) }()
	b.ends = append(b.ends, func() { _ = server.Close() })
	b.rpc = cachev1.NewCacheServiceClient(&http.Client{Transport: withKey{&http.Transport{}}}, "http://"+listener.Addr().String())
	return nil
}

type withKey struct{ http.RoundTripper }

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", "Bearer key")
	return k.RoundTripper.RoundTrip(r)
}

// prepare puts the value wherever it is read.
func (b *bench) prepare(ctx context.Context) error {
	body, err := json.Marshal(anOrder)
	if err != nil {
		return err
	}
	key, err := cache.ParseKey("order")
	if err != nil {
		return err
	}
	_, err = b.cache.Set(ctx, cache.Write{Key: key, Value: body})
	_, dbErr := b.db.Exec(ctx, `INSERT INTO locks (tenant, name, token, lease_id, holder, owner, ttl, acquired_at, expires_at)
		VALUES ($1, 'a row', 1, gen_random_uuid(), '', '', '1 minute', now(), now())`, tenant)
	err = errors.Join(err, dbErr, b.redis.Set(ctx, b.bare, body, time.Hour).Err(), b.remember(ctx), b.remember(ctx, cache.Near(time.Hour)))
	b.loads.Store(0)
	return err
}

func (b *bench) remember(ctx context.Context, options ...cache.Option) error {
	o, err := cache.Remember(ctx, b.cache, "order", time.Hour, func(context.Context) (order, error) { b.loads.Add(1); return anOrder, nil }, options...)
	if err == nil && o.ID != anOrder.ID {
		err = errors.New("another value")
	}
	return err
}

// transaction changes a row, and does more.
func (b *bench) transaction(ctx context.Context, more func(tx *pg.Tx) error) error {
	return b.db.InTx(ctx, func(tx *pg.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE locks SET token = token + 1 WHERE tenant = $1`, tenant); err != nil {
			return err
		}
		return more(tx)
	})
}

func (b *bench) contests() []contest {
	as := func(f func(ctx context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error { return f(acting(ctx)) }
	}
	return []contest{
		{"get", func(ctx context.Context) error { return b.redis.Get(ctx, b.bare).Err() }, 1},
		{"remember", as(func(ctx context.Context) error { return b.remember(ctx) }), 1},
		{"rpc", func(ctx context.Context) error {
			_, err := b.rpc.Get(ctx, &cachev1.GetRequest{Key: "order"})
			return err
		}, 1},
		{"near", near(b), 1_000},
		{"tx", as(func(ctx context.Context) error { return b.transaction(ctx, func(*pg.Tx) error { return nil }) }), 1},
		{"tx, invalidates", as(func(ctx context.Context) error {
			return b.transaction(ctx, func(tx *pg.Tx) error { return b.cache.InvalidateTx(ctx, tx, "another order") })
		}), 1},
	}
}

// near returns a call whose context and option are made once, as where a handler has many hits.
func near(b *bench) func(ctx context.Context) error {
	var within context.Context
	return func(ctx context.Context) error {
		if within == nil {
			within = acting(ctx)
		}
		return b.remember(within, cache.Near(time.Hour))
	}
}
