package app

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	messagev1 "plinth/api/plinth/message/v1"
	tenantv1 "plinth/api/plinth/tenant/v1"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/rpc"
	"plinth/internal/sample"
	"plinth/internal/tenant"
)

// domain is a row of the table of domains: all that the rest of this package knows of one. What a domain does without stays
// empty.
type domain struct {
	name     string
	service  service           // its RPCs, and their REST routes
	quotas   []*tenant.Quota   // of what its tables hold for tenants
	remove   tenant.Deletion   // of what it has of a tenant outside of its tables
	handlers []message.Handler // of queues
	periodic []pg.Periodic     // what one worker does once in an interval
	checks   []check           // of backends that it alone stands on

	// What runs until its context ends. A part that returns an error ends the process.
	run   func(ctx context.Context) error // in every process, from its start to its end
	serve func(ctx context.Context) error // in every process, once the schema is there; it ends before the calls do
	work  func(ctx context.Context) error // in workers, likewise
}

// service mounts an RPC service.
type service func(options ...connect.HandlerOption) (path string, handler http.Handler)

// buildDomains builds the domains and returns their table, in the order in which they stand on each other.
func (a *App) buildDomains() []domain {
	a.tenants = tenant.New(tenant.Config{
		DB: a.db.calls, Directory: a.db.directory.System(), Notifier: a.notifier, Scopes: rpc.Scopes(), Admin: a.cfg.adminKey(), Log: a.log,
	})
	a.messages = message.New(message.Config{
		DB: a.db.calls, Handlers: a.db.handlers, System: a.db.work.System(), Notifier: a.notifier, Broker: a.broker, Limiter: a.limiter,
		Limits: a.cfg.Message, Log: a.log,
	})
	return []domain{
		{
			name: "tenant",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return tenantv1.NewTenantServiceHandler(tenant.NewRPC(a.tenants), o...)
			},
			run:  a.tenants.Run,
			work: a.tenants.Work,
		},
		{
			name: "message",
			service: func(o ...connect.HandlerOption) (string, http.Handler) {
				return messagev1.NewMessageServiceHandler(message.NewRPC(a.messages, a.cfg.Process.ShutdownTimeout/4), o...)
			},
			quotas:   a.messages.Quotas(),
			remove:   a.messages.RemoveTenant,
			periodic: a.messages.Periodic(),
			checks:   a.brokerChecks(),
			run:      a.messages.Run,
			serve:    a.messages.Relay,
			work:     a.messages.Work,
		},
		{
			name: "sample",
			handlers: []message.Handler{
				message.HandleBytes("task_queue", sample.LogTask(a.log), message.Concurrency(8)),
			},
		},
	}
}

// brokerChecks are of a broker that is a backend of its own.
func (a *App) brokerChecks() []check {
	if a.cfg.Broker.Kind != rabbitMQ {
		return nil
	}
	return []check{{"rabbitmq", needed, a.broker.Ping}}
}
