// Package app builds the service out of its parts and runs it. It is the one package that knows all others: config.go
// reads the environment, domains.go is the table of domains, routes.go mounts them, run.go owns the lifecycle.
package app

import (
	"context"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/blob"
	"plinth/internal/broker"
	"plinth/internal/broker/amqp"
	"plinth/internal/broker/postgres"
	"plinth/internal/kv"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/rpc"
	"plinth/internal/tenant"
)

// App is the service: its parts, made and connected, not yet running.
type App struct {
	cfg  Config
	logs *observe.Logs
	log  *zap.Logger

	db       databases
	notifier *pg.Notifier
	broker   broker.Broker
	redis    redis.UniversalClient
	bucket   *blob.Bucket // nil without S3_BUCKET
	metrics  *observe.Metrics
	limiter  *ratelimit.Limiter

	domains  []domain
	tenants  *tenant.Service  // who calls
	messages *message.Service // whose worker runs the handlers of all domains
	worker   *message.Worker
	health   *health
	stack    *rpc.Stack   // nil in a worker; likewise
	handler  http.Handler // of the one port

	draining context.Context // ends when streams are to finish
	drain    context.CancelFunc
}

// Run makes the service and runs it until ctx ends: then it finishes what is in hand within cfg.ShutdownTimeout.
// Backends that are away are no error: it waits for them.
func Run(ctx context.Context, cfg Config) error {
	logs, err := observe.NewLogs(observe.LogConfig{
		Level: cfg.Log.Level, Format: cfg.Log.Format, File: cfg.Log.File,
		MaxSize: cfg.Log.FileMaxSize, MaxBackups: cfg.Log.FileMaxBackups, MaxAge: cfg.Log.FileMaxAge,
	})
	if err != nil {
		return &ConfigError{[]string{err.Error()}}
	}
	defer logs.Close()
	a, err := build(ctx, cfg, logs)
	if err != nil {
		return err
	}
	defer a.close()
	return a.run(ctx)
}

func build(ctx context.Context, cfg Config, logs *observe.Logs) (_ *App, err error) {
	a := &App{cfg: cfg, logs: logs, log: logs.Main}
	a.draining, a.drain = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			a.close()
		}
	}()

	if a.db, err = openDatabases(ctx, cfg); err != nil {
		return nil, err
	}
	a.notifier, err = pg.NewNotifier(pg.NotifierConfig{System: a.db.work.System(), URL: cfg.Database.direct(), Log: a.log})
	if err != nil {
		return nil, wrong("DATABASE_DIRECT_URL", err)
	}
	switch cfg.Broker.Kind {
	case rabbitMQ:
		if a.broker, err = amqp.New(string(cfg.Broker.AMQPURL), a.log); err != nil {
			return nil, wrong("AMQP_URL", err)
		}
	case postgresBroker:
		a.broker = postgres.New(a.db.broker.System(), a.notifier, a.log)
	}
	kv.LogTo(a.log)
	if a.redis, err = kv.Open(string(cfg.Redis.URL)); err != nil {
		return nil, wrong("REDIS_URL", err)
	}
	if cfg.S3.Bucket != "" {
		if a.bucket, err = blob.Open(ctx, blob.Config{
			Endpoint: cfg.S3.Endpoint, Bucket: cfg.S3.Bucket, ForcePathStyle: cfg.S3.ForcePathStyle, Region: cfg.S3.Region,
			AccessKeyID: cfg.S3.AccessKeyID, SecretAccessKey: string(cfg.S3.SecretAccessKey), SessionToken: string(cfg.S3.SessionToken),
		}); err != nil {
			return nil, wrong("S3_BUCKET", err)
		}
	}

	a.metrics = observe.NewMetrics()
	a.limiter = ratelimit.New(a.redis, a.log, time.Now)
	a.domains = a.buildDomains()
	checks := a.checks()
	var handlers []message.Handler
	for _, d := range a.domains {
		a.tenants.Register(d.quotas...)
		if d.remove != nil {
			a.tenants.OnDelete(d.remove)
		}
		checks = append(checks, d.checks...)
		handlers = append(handlers, d.handlers...)
	}
	a.health = newHealth(a.log, checks)
	a.worker = message.NewWorker(message.WorkerConfig{
		Service: a.messages, Handlers: handlers, Tenants: a.tenants.Active, Drain: cfg.Process.ShutdownTimeout / 2, Lines: logs.Access,
	})
	if cfg.Role != Worker {
		if err := a.mount(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// mount builds the handler of the one port.
func (a *App) mount() error {
	methods, err := methodRates(a.cfg.RateLimit.Methods)
	if err != nil {
		return wrong("RATE_LIMIT_METHODS", err)
	}
	a.stack = rpc.New(rpc.Config{
		Log: a.logs.Access, Timeout: a.cfg.HTTP.RequestTimeout, Origins: a.cfg.HTTP.AllowedOrigins, Public: public(),
		Authenticate: a.authenticator(), ActFor: a.tenants.ActFor, Denied: a.metrics.Denied,
		Limits: rpc.Limits{
			Tenant: a.cfg.RateLimit.Tenant, Key: a.cfg.RateLimit.Key, Methods: methods, Calls: a.cfg.HTTP.MaxCalls, Streams: a.cfg.HTTP.MaxStreams,
		},
		Limiter: a.limiter, Draining: a.draining, MaxAge: a.cfg.HTTP.MaxConnectionAge,
	})
	mux, err := a.routes()
	if err != nil {
		return err
	}
	a.handler = a.stack.Handler(mux)
	return nil
}

func wrong(setting string, err error) error {
	return &ConfigError{[]string{setting + " " + err.Error()}}
}

// close ends what build opened, last opened first.
func (a *App) close() {
	a.drain()
	if a.limiter != nil {
		a.limiter.Close()
	}
	if a.redis != nil {
		_ = a.redis.Close()
	}
	a.db.close()
}
