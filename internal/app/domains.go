package app

import (
	"context"
	"net/http"
	"os"
	"strconv"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	cachev1 "plinth/api/plinth/cache/v1"
	channelv1 "plinth/api/plinth/channel/v1"
	filev1 "plinth/api/plinth/file/v1"
	lockv1 "plinth/api/plinth/lock/v1"
	messagev1 "plinth/api/plinth/message/v1"
	schedulev1 "plinth/api/plinth/schedule/v1"
	tenantv1 "plinth/api/plinth/tenant/v1"
	"plinth/internal/cache"
	"plinth/internal/channel"
	"plinth/internal/file"
	"plinth/internal/lock"
	"plinth/internal/loop"
	"plinth/internal/message"
	"plinth/internal/rpc"
	"plinth/internal/sample"
	"plinth/internal/schedule"
	"plinth/internal/tenant"
)

// domain is a row of the table of domains: all that the rest of this package knows about one. Fields that a domain does not
// need stay empty.
type domain struct {
	name     string
	service  rpc.Service            // mounts its RPCs and their REST routes
	routes   []rpc.Route            // what no proto can describe: uploads, downloads
	quotas   []*tenant.Quota        // on what its tables hold for a tenant
	remove   tenant.Deletion        // removes what it has of a tenant outside of its tables
	handlers []message.Handler      // of its queues
	jobs     []loop.Job             // of the service itself: retention, reapers, statistics
	checks   []check                // of backends that only it needs
	metrics  []prometheus.Collector // its own
	state    func() any             // what the process holds of it at the moment, for /debug/state

	// Each of these runs until its context ends. If it returns an error, the process ends.
	run   func(ctx context.Context) error // in every process, from its start to its end
	serve func(ctx context.Context) error // in every process, once the schema is current; ends before the calls do
	work  func(ctx context.Context) error // in workers, likewise
}

// buildDomains builds the domains and returns their table. A domain comes after those that it depends on.
func (a *App) buildDomains() []domain {
	a.tenants = tenant.New(tenant.Config{
		DB: a.db.calls, Directory: a.db.directory.System(), Notifier: a.notifier, Scopes: rpc.Scopes(), Admin: a.cfg.adminKey(), Log: a.log,
	})
	a.messages = message.New(message.Config{
		DB: a.db.calls, Handlers: a.db.handlers, System: a.db.work.System(), Notifier: a.notifier, Broker: a.broker, Limiter: a.limiter,
		Outbound: a.outbound, Secrets: a.secrets, Tracing: a.tracing, Limits: a.cfg.Message, CountsDepths: a.cfg.Broker.Kind == rabbitMQ,
		OneLog: a.cfg.Broker.Kind == postgresBroker, Log: a.log,
	})
	locks := lock.New(lock.Config{
		DB: a.db.calls, System: a.db.work.System(), Notifier: a.notifier, Redis: a.redis, Limits: a.cfg.Lock, Log: a.log,
	})
	files := file.New(file.Config{
		DB: a.db.calls, System: a.db.work.System(), Notifier: a.notifier, Bucket: a.bucket, Messages: a.messages, Limits: a.cfg.File,
		Tracing: a.tracing, Log: a.log,
	})
	values := cache.New(cache.Config{Redis: a.redis, Messages: a.messages, Limits: a.cfg.Cache})
	a.channels = channel.New(channel.Config{
		Redis: a.redis, DB: a.db.calls, Holder: a.tenants.Holder, Limits: a.cfg.Channel, Log: a.log,
	})
	a.schedules = schedule.New(schedule.Config{
		DB: a.db.calls, System: a.db.work.System(), Notifier: a.notifier, Messages: a.messages, Outbound: a.outbound, Secrets: a.secrets, Redis: a.redis,
		Jobs: a.jobs(), Limits: a.cfg.Schedule,
		Tracing: a.tracing, Worker: workerName(), Drain: a.cfg.Process.ShutdownTimeout / 2, Log: a.log,
	})
	return []domain{
		{
			name: "tenant",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return tenantv1.NewTenantServiceHandler(tenant.NewRPC(a.tenants), o...)
			},
			jobs:    a.tenants.Jobs(),
			metrics: a.tenants.Metrics(),
			run:     a.tenants.Run,
			work:    a.tenants.Work,
		},
		{
			name: "message",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return messagev1.NewMessageServiceHandler(message.NewRPC(a.messages, a.cfg.Process.ShutdownTimeout/4), o...)
			},
			quotas:  a.messages.Quotas(),
			remove:  a.messages.RemoveTenant,
			jobs:    a.messages.Jobs(),
			metrics: a.messages.Metrics(),
			state:   a.messages.ProcessState,
			checks:  a.brokerChecks(),
			run:     a.messages.Run,
			serve:   a.messages.Relay,
			work:    a.messages.Work,
		},
		{
			name: "lock",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return lockv1.NewLockServiceHandler(lock.NewRPC(locks), o...)
			},
			quotas:  locks.Quotas(),
			jobs:    locks.Jobs(),
			metrics: locks.Metrics(),
			state:   locks.ProcessState,
			run:     locks.Run,
		},
		{
			name: "file",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return filev1.NewFileServiceHandler(file.NewRPC(files), append(o, file.Uncompressed())...)
			},
			routes: file.NewHTTP(files).Routes(),
			quotas: files.Quotas(),
			remove: files.RemoveTenant,
			jobs:   files.Jobs(),
			state:  files.ProcessState,
			work:   files.Work,
		},
		{
			name: "cache",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return cachev1.NewCacheServiceHandler(cache.NewRPC(values), o...)
			},
			quotas:  values.Quotas(),
			remove:  values.RemoveTenant,
			metrics: values.Metrics(),
			run:     values.Run,
		},
		{
			name: "channel",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return channelv1.NewChannelServiceHandler(channel.NewRPC(a.channels), o...)
			},
			quotas:  a.channels.Quotas(),
			remove:  a.channels.RemoveTenant,
			metrics: a.channels.Metrics(),
			state:   a.channels.ProcessState,
			run:     a.channels.Run,
		},
		{
			name: "schedule",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return schedulev1.NewScheduleServiceHandler(schedule.NewRPC(a.schedules), o...)
			},
			quotas:  a.schedules.Quotas(),
			jobs:    a.schedules.Jobs(),
			metrics: a.schedules.Metrics(),
			state:   a.schedules.ProcessState,
			work:    a.schedules.Work,
		},
		{
			name: "sample",
			handlers: []message.Handler{
				message.HandleBytes("task_queue", sample.LogTask(a.log), message.Concurrency(8)),
			},
		},
	}
}

// jobs are what schedules can run by name.
func (a *App) jobs() []schedule.Job {
	return []schedule.Job{{Name: "log", Run: sample.LogJob}}
}

// workerName names this process where people look for it: its machine and its process id.
func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + strconv.Itoa(os.Getpid())
}

// brokerChecks returns the health check of a broker that is a backend of its own.
func (a *App) brokerChecks() []check {
	if a.cfg.Broker.Kind != rabbitMQ {
		return nil
	}
	return []check{{"rabbitmq", needed, a.broker.Ping}}
}
