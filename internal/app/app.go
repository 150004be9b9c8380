// Package app builds the service out of its parts and runs it. It is the one package that knows all others: config.go
// reads the environment, routes.go lists what is mounted, run.go owns the lifecycle.
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

	tenants  *tenant.Service
	messages *message.Service
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
		Level: cfg.LogLevel, Format: cfg.LogFormat, File: cfg.LogFile,
		MaxSize: cfg.LogFileMaxSize, MaxBackups: cfg.LogFileMaxBackups, MaxAge: cfg.LogFileMaxAge,
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
	a.notifier, err = pg.NewNotifier(pg.NotifierConfig{System: a.db.work.System(), URL: cfg.directURL(), Log: a.log})
	if err != nil {
		return nil, wrong("DATABASE_DIRECT_URL", err)
	}
	switch cfg.Broker {
	case rabbitMQ:
		if a.broker, err = amqp.New(string(cfg.AMQPURL), a.log); err != nil {
			return nil, wrong("AMQP_URL", err)
		}
	case postgresBroker:
		a.broker = postgres.New(a.db.broker.System(), a.notifier, a.log)
	}
	kv.LogTo(a.log)
	if a.redis, err = kv.Open(string(cfg.RedisURL)); err != nil {
		return nil, wrong("REDIS_URL", err)
	}
	if cfg.S3Bucket != "" {
		if a.bucket, err = blob.Open(ctx, blob.Config{
			Endpoint: cfg.S3Endpoint, Bucket: cfg.S3Bucket, ForcePathStyle: cfg.S3ForcePathStyle, Region: cfg.AWSRegion,
			AccessKeyID: cfg.AWSAccessKeyID, SecretAccessKey: string(cfg.AWSSecretAccessKey), SessionToken: string(cfg.AWSSessionToken),
		}); err != nil {
			return nil, wrong("S3_BUCKET", err)
		}
	}

	a.metrics = observe.NewMetrics()
	a.limiter = ratelimit.New(a.redis, a.log, time.Now)
	admin, err := cfg.adminKey()
	if err != nil {
		return nil, err
	}
	a.tenants = tenant.New(tenant.Config{DB: a.db.calls, Notifier: a.notifier, Directory: a.db.directory.System(), Scopes: rpc.Scopes(), Admin: admin, Log: a.log})
	a.messages = message.New(message.Config{
		DB: a.db.calls, Handlers: a.db.handlers, System: a.db.work.System(), Notifier: a.notifier, Broker: a.broker, Limiter: a.limiter,
		Limits: message.Limits{
			AutoCreate: cfg.MessageAutoCreateQueues,
			Queues:     cfg.MessageMaxQueues, Waiting: cfg.MessageMaxWaiting, PerSecond: cfg.MessageMaxPerSecond,
		},
		Log: a.log,
	})
	a.tenants.Register(a.messages.Quotas()...)
	a.worker = message.NewWorker(a.messages, a.handlers(), logs.Access, cfg.ShutdownTimeout/2, a.tenants.Active)
	a.health = newHealth(a.log, a.checks())
	if cfg.Role != Worker {
		if err := a.mount(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// mount builds the handler of the one port.
func (a *App) mount() error {
	methods, err := methodRates(a.cfg.RateLimitMethods)
	if err != nil {
		return wrong("RATE_LIMIT_METHODS", err)
	}
	a.stack = rpc.New(rpc.Config{
		Log: a.logs.Access, Timeout: a.cfg.RequestTimeout, Origins: a.cfg.CORSAllowedOrigins, Public: public(),
		Authenticate: a.authenticator(), ActFor: a.tenants.ActFor, Denied: a.metrics.Denied,
		Limits: rpc.Limits{
			Tenant: a.cfg.RateLimitTenant, Key: a.cfg.RateLimitKey, Methods: methods, Calls: a.cfg.MaxCalls, Streams: a.cfg.MaxStreams,
		},
		Limiter: a.limiter, Draining: a.draining, MaxAge: a.cfg.MaxConnectionAge,
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
