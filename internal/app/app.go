// Package app builds the service out of its parts and runs it. It is the only package that imports all others: config.go
// reads the environment, domains.go is the table of domains, routes.go mounts them, run.go owns the lifecycle.
package app

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/blob"
	"plinth/internal/broker"
	"plinth/internal/broker/amqp"
	"plinth/internal/broker/postgres"
	"plinth/internal/channel"
	"plinth/internal/kv"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/outbound"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/rpc"
	"plinth/internal/schedule"
	"plinth/internal/seal"
	"plinth/internal/tenant"
	"plinth/web"
)

// App is the service: its parts, created and connected, but not running yet.
type App struct {
	cfg  Config
	logs *observe.Logs
	log  *zap.Logger

	db       databases
	notifier *pg.Notifier
	broker   broker.Broker
	redis    redis.UniversalClient
	bucket   *blob.Bucket // nil without S3_BUCKET
	outbound *outbound.Client
	secrets  seal.Keys // that secrets of clients are kept with
	metrics  *observe.Metrics
	tracing  *observe.Tracing      // nil if it is off
	exported func(context.Context) // ends the export of metrics; nil without one
	limiter  *ratelimit.Limiter

	domains   []domain
	tenants   *tenant.Service  // who calls
	channels  *channel.Service // makes credentials that are in URLs
	messages  *message.Service // its worker runs the handlers of all domains
	worker    *message.Worker
	schedules *schedule.Service // it runs the jobs of all domains
	health    *health
	stack     *rpc.Stack   // nil in a worker; likewise
	handler   http.Handler // of the one port

	certificate *certificate // nil without TLS

	draining context.Context // ends when streams are to finish
	drain    context.CancelFunc
	started  time.Time
	closeBy  time.Time // when the shutdown is to be over; zero before it begins
}

// closeLeast is how long close waits even if the shutdown took all of its time.
const closeLeast = 100 * time.Millisecond

// closeTraces is how long the last traces and metrics may take to be exported.
const closeTraces = 3 * time.Second

// Run builds the service and runs it until ctx ends. Then it finishes the work in hand, within SHUTDOWN_TIMEOUT. A backend
// that is away is not an error: Run waits for it.
func Run(ctx context.Context, cfg Config) error {
	logs, err := observe.NewLogs(observe.LogConfig{
		Level: cfg.Log.Level, Format: cfg.Log.Format, File: cfg.Log.File,
		MaxSize: cfg.Log.FileMaxSize, MaxBackups: cfg.Log.FileMaxBackups, MaxAge: cfg.Log.FileMaxAge,
	})
	if err != nil {
		return &ConfigError{[]string{err.Error()}}
	}
	defer logs.Close()
	if cfg.Role != Dev { // There the first signal that ends it is not the last one that is handled.
		defer logs.FlushBeforeSignals(ctx)()
	}
	a, err := build(ctx, cfg, logs)
	if err != nil {
		return err
	}
	defer a.close()
	return a.run(ctx)
}

func build(ctx context.Context, cfg Config, logs *observe.Logs) (_ *App, err error) {
	a := &App{cfg: cfg, logs: logs, log: logs.Main, started: time.Now().UTC()}
	a.draining, a.drain = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			a.close()
		}
	}()

	if a.db, err = openDatabases(ctx, cfg, a.log); err != nil {
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
		a.broker = broker.Named(a.broker, func(ctx context.Context) (uuid.UUID, error) { return pg.Identity(ctx, a.db.work.System()) })
	case postgresBroker:
		a.broker = postgres.New(a.db.broker.System(), a.notifier, a.log)
	}
	a.broker = broker.Observed(a.broker, map[string]string{rabbitMQ: "rabbitmq", postgresBroker: "postgresql"}[cfg.Broker.Kind])
	kv.LogTo(a.log)
	if a.redis, err = kv.Open(string(cfg.Redis.URL)); err != nil {
		return nil, wrong("REDIS_URL", err)
	}
	if cfg.S3.Bucket != "" {
		if a.bucket, err = blob.Open(ctx, blob.Config{
			Endpoint: cfg.S3.Endpoint, PublicEndpoint: cfg.S3.PublicEndpoint, Bucket: cfg.S3.Bucket,
			ForcePathStyle: cfg.S3.ForcePathStyle, Conditional: cfg.S3.Conditional, Region: cfg.S3.Region,
			AccessKeyID: cfg.S3.AccessKeyID, SecretAccessKey: string(cfg.S3.SecretAccessKey), SessionToken: string(cfg.S3.SessionToken),
		}); err != nil {
			return nil, wrong("S3_BUCKET", err)
		}
	}

	observe.LogSDKTo(a.log)
	if a.tracing, err = observe.NewTracing(ctx, cfg.OTel.tracing(cfg.Role, a.log)); err != nil {
		return nil, &ConfigError{[]string{err.Error()}}
	}
	a.metrics = observe.NewMetrics()
	if a.outbound, err = openOutbound(cfg.Outbound); err != nil {
		return nil, err
	}
	a.metrics.Register(a.backendMetrics()...)
	if a.secrets, err = seal.Parse(string(cfg.Seal.Keys)); err != nil {
		return nil, wrong("SECRET_KEYS", err)
	}
	if !a.secrets.Any() && cfg.Role != Dev {
		a.log.Warn("SECRET_KEYS is not set: secrets that clients give are kept in the database as they are")
	}
	a.limiter = ratelimit.New(a.redis, a.log, time.Now)
	a.domains = a.buildDomains()
	checks := a.checks()
	var handlers []message.Handler
	for _, d := range a.domains {
		a.tenants.Register(d.quotas...)
		a.schedules.Own(d.jobs...)
		a.metrics.Register(d.metrics...)
		if d.remove != nil {
			a.tenants.OnDelete(d.remove)
		}
		checks = append(checks, d.checks...)
		handlers = append(handlers, d.handlers...)
	}
	every := checkEvery
	if cfg.Role == Worker {
		every = unaskedEvery
	}
	a.health = newHealth(a.log, every, checks)
	a.metrics.Register(a.health.metrics())
	a.worker = message.NewWorker(message.WorkerConfig{
		Service: a.messages, Handlers: handlers, Tenants: a.tenants.Active, Drain: cfg.Process.ShutdownTimeout / 2, Lines: logs.Access,
	})
	if cfg.Role != Worker {
		if err := a.mount(); err != nil {
			return nil, err
		}
	}
	if cfg.OTel.exports() {
		if a.exported, err = a.metrics.Export(ctx, cfg.OTel.metrics(a.log)); err != nil {
			return nil, &ConfigError{[]string{err.Error()}}
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
		Authenticate: a.authenticator(), AuthenticateURL: a.channels.Authenticate, ActFor: a.tenants.ActFor, Denied: a.metrics.Denied,
		Limits: rpc.Limits{
			Tenant: a.cfg.RateLimit.Tenant, Key: a.cfg.RateLimit.Key, Methods: methods, Calls: a.cfg.HTTP.MaxCalls, Streams: a.cfg.HTTP.MaxStreams,
			PublicStreams: a.cfg.HTTP.MaxPublicStreams, Memory: a.cfg.HTTP.MaxBodyMemory << 20,
		},
		Limiter: a.limiter, Tracing: a.tracing, Draining: a.draining, MaxAge: a.cfg.HTTP.MaxConnectionAge,
	})
	pages, err := newConsole(web.Dist(), a.cfg.Auth.signInAt())
	if err != nil {
		return err
	}
	a.metrics.Register(a.stack.Metrics()...)
	a.handler, err = a.stack.Handler(a.services(), append(a.routes(), pages.routes()...))
	if err != nil {
		return fmt.Errorf("build the routes: %w", err)
	}
	return nil
}

func openOutbound(cfg outboundConfig) (*outbound.Client, error) {
	allowed, err := outbound.ParseNetworks(cfg.AllowedNetworks)
	if err != nil {
		return nil, wrong("OUTBOUND_ALLOWED_NETWORKS", err)
	}
	proxy, err := outbound.ParseProxy(string(cfg.Proxy))
	if err != nil {
		return nil, wrong("OUTBOUND_PROXY", err)
	}
	return outbound.New(outbound.Config{Allowed: allowed, Proxy: proxy, Timeout: cfg.Timeout}), nil
}

func wrong(setting string, err error) error {
	return &ConfigError{[]string{setting + " " + err.Error()}}
}

// close closes what build opened, last opened first. It does not wait for longer than the shutdown may take: a connection
// stays in use for as long as whoever has it does not end.
func (a *App) close() {
	closed := make(chan struct{})
	go func() {
		defer observe.LogPanic(a.log)
		defer close(closed)
		a.drain()
		if a.limiter != nil {
			a.limiter.Close()
		}
		if a.redis != nil {
			_ = a.redis.Close()
		}
		a.db.close()
		flushing, cancel := context.WithTimeout(context.Background(), closeTraces)
		defer cancel()
		a.tracing.Close(flushing)
		if a.exported != nil {
			a.exported(flushing)
		}
	}()
	select {
	case <-closed:
	case <-time.After(max(time.Until(a.closeBy), closeLeast)):
	}
}
