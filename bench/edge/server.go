package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"plinth/bench/cost"
	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/rpc"
	"plinth/internal/tenant"
)

// The database of the tenancy. The run creates it, and passes its URL to the servers in the variable.
const (
	databaseVariable = "BENCH_EDGE_DATABASE"
	keysOfEach       = 10
)

// generous is a rate that is counted and never reached.
var generous = auth.Rate{Count: 10_000_000, Per: time.Second}

// handlerOf returns the function that creates the handler of the named server.
func handlerOf(ctx context.Context, name string) func(*observe.Logs) (http.Handler, error) {
	return func(logs *observe.Logs) (http.Handler, error) {
		if name != "bare" {
			debug.SetGCPercent(rpc.GCPercent) // As app.Main does.
		}
		switch name {
		case "bare":
			return cost.Bare(), nil
		case "full", "again", "headers":
			return cost.Full(rpc.Config{Log: logs.Access})
		case "edge", "crowd":
			return edge(ctx, logs)
		default:
			return nil, fmt.Errorf("no server is called %q", name)
		}
	}
}

// edge returns the handler of the stack with authentication and limits, as internal/app builds it.
func edge(ctx context.Context, logs *observe.Logs) (http.Handler, error) {
	db, err := pg.Open(ctx, pg.Config{URL: os.Getenv(databaseVariable), MaxConns: 4})
	if err != nil {
		return nil, err
	}
	client, err := kv.Open(redisURL())
	if err != nil {
		return nil, err
	}
	tenants, notifier, err := newTenants(db, os.Getenv(databaseVariable), logs.Main)
	if err != nil {
		return nil, err
	}
	go notifier.Run(ctx) // Both end with the process.
	go func() { _ = tenants.Run(ctx) }()
	return cost.Full(rpc.Config{
		Log: logs.Access, Authenticate: tenants.Authenticate, ActFor: tenants.ActFor,
		Limits:  rpc.Limits{Tenant: generous, Key: generous, Calls: 2048, Streams: 10_000},
		Limiter: ratelimit.New(client, logs.Main, time.Now), MaxAge: time.Hour,
	})
}

func newTenants(db *pg.DB, database string, log *zap.Logger) (*tenant.Service, *pg.Notifier, error) {
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: database, Log: log})
	if err != nil {
		return nil, nil, err
	}
	return tenant.New(tenant.Config{DB: db, Notifier: notifier, Directory: db.System(), Scopes: rpc.Scopes(), Log: log}), notifier, nil
}

func redisURL() string { return cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379/8") }

// tenancy is a database with tenants and their keys.
type tenancy struct {
	keys []string
	drop func() error
}

func openTenancy(ctx context.Context, tenants int) (*tenancy, error) {
	database, drop, err := scratch.Database(ctx)
	if err != nil {
		return nil, err
	}
	t := &tenancy{drop: drop}
	err = t.fill(ctx, database, tenants)
	if err != nil {
		t.close()
		return nil, err
	}
	return t, os.Setenv(databaseVariable, database)
}

// fill creates the tenants and their keys.
func (t *tenancy) fill(ctx context.Context, database string, tenants int) error {
	db, err := pg.Open(ctx, pg.Config{URL: database, MaxConns: 4})
	if err != nil {
		return err
	}
	defer db.Close()
	service, _, err := newTenants(db, database, zap.NewNop())
	if err != nil {
		return err
	}
	for i := range tenants {
		name := fmt.Sprintf("tenant-%d", i)
		if _, err := service.CreateTenant(ctx, tenant.Tenant{Name: name}); err != nil {
			return err
		}
		for range keysOfEach {
			key, _, err := service.CreateApiKey(ctx, tenant.Key{Tenant: name, Scopes: []string{"messages.publish"}})
			if err != nil {
				return err
			}
			t.keys = append(t.keys, key)
		}
	}
	return nil
}

func (t *tenancy) close() {
	if err := t.drop(); err != nil {
		fmt.Fprintln(os.Stderr, "the database is left behind:", err)
	}
}

// rotating returns options that make a client send one key after the other.
func rotating(keys []string) []connect.ClientOption {
	headers := make([]string, len(keys))
	for i, key := range keys {
		headers[i] = "Bearer " + key
	}
	var turn atomic.Int64
	return []connect.ClientOption{connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", headers[turn.Add(1)%int64(len(headers))])
			return next(ctx, req)
		}
	}))}
}
