package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/bench/cost"
	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/rpc"
	"plinth/internal/tenant"
)

// The tenancy's database, made by the run and named to the servers by the variable.
const (
	databaseVariable = "BENCH_EDGE_DATABASE"
	keysOfEach       = 10
)

// generous is a rate that is counted and never reached.
var generous = auth.Rate{Count: 10_000_000, Per: time.Second}

// handlerOf returns the handler that the server of a name serves.
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

// edge is the stack with who may call, and how much, as internal/app has it.
func edge(ctx context.Context, logs *observe.Logs) (http.Handler, error) {
	db, err := pg.Open(ctx, pg.Config{URL: os.Getenv(databaseVariable), MaxConns: 4})
	if err != nil {
		return nil, err
	}
	client, err := kv.Open(redisURL())
	if err != nil {
		return nil, err
	}
	tenants := tenant.New(tenant.Config{DB: db, Directory: db.System(), Scopes: rpc.Scopes(), Log: logs.Main})
	go func() { _ = tenants.Run(ctx) }() // It ends with the process.
	return cost.Full(rpc.Config{
		Log: logs.Access, Authenticate: tenants.Authenticate, ActFor: tenants.ActFor,
		Limits:  rpc.Limits{Tenant: generous, Key: generous, Calls: 2048, Streams: 10_000},
		Limiter: ratelimit.New(client, logs.Main, time.Now), MaxAge: time.Hour,
	})
}

func redisURL() string { return cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379/8") }

// tenancy is a database with tenants and their keys.
type tenancy struct {
	keys []string
	drop func() error
}

func openTenancy(ctx context.Context, tenants int) (*tenancy, error) {
	server := cmp.Or(os.Getenv("DATABASE_URL"), "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")
	name := fmt.Sprintf("plinth_bench_edge_%d", os.Getpid())
	statement := func(sql string) error {
		conn, err := pgx.Connect(context.WithoutCancel(ctx), server)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		_, err = conn.Exec(context.WithoutCancel(ctx), sql)
		return err
	}
	if err := statement("CREATE DATABASE " + name); err != nil {
		return nil, err
	}
	t := &tenancy{drop: func() error { return statement("DROP DATABASE " + name + " WITH (FORCE)") }}
	u, err := url.Parse(server)
	if err == nil {
		u.Path = "/" + name
		err = t.fill(ctx, u.String(), tenants)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, os.Setenv(databaseVariable, u.String())
}

// fill creates the tenants and their keys.
func (t *tenancy) fill(ctx context.Context, database string, tenants int) error {
	if err := pg.Migrate(ctx, database, zap.NewNop()); err != nil {
		return err
	}
	db, err := pg.Open(ctx, pg.Config{URL: database, MaxConns: 4})
	if err != nil {
		return err
	}
	defer db.Close()
	service := tenant.New(tenant.Config{DB: db, Directory: db.System(), Scopes: rpc.Scopes(), Log: zap.NewNop()})
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

// rotating has a client send one key after the other.
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
