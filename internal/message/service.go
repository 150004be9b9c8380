package message

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/loop"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/tenant"
)

// A notification is a hint that there is something new to read. Its payload is one of these.
const (
	channel       = "plinth_messages"
	newWaiting    = "waiting"    // message_waiting has rows that may be due before all others
	newOperations = "operations" // a redrive or purge was started
	newPolicies   = "queues"     // a queue was created, paused, resumed or deleted
	newIntents    = "intents"    // a change of a queue was not followed by the broker
)

// Service implements the rules of messages and queues. Its Run must be running.
type Service struct {
	db       *pg.DB // acts for the tenant of the context
	handlers *pg.DB
	system   *pg.System // acts for all tenants
	broker   broker.Broker
	log      *zap.Logger
	limits   Limits
	quotas   quotas
	limiter  *ratelimit.Limiter
	notifier *pg.Notifier
	rates    *rates
	topology *topology
	pauses   *queueSet
	present  atomic.Pointer[queueSet] // the existing queues of a worker's handlers

	relay, operations, intents *pg.Due
	heardPolicies              chan struct{} // has a token after a newPolicies notification
}

// Config configures a Service. The connections are of separate classes, so that they cannot starve each other.
type Config struct {
	DB       *pg.DB     // for calls
	Handlers *pg.DB     // for handlers with a transaction
	System   *pg.System // for the relay and other background work; the relay leaves one of its connections to the latter
	Notifier *pg.Notifier
	Broker   broker.Broker
	Limiter  *ratelimit.Limiter // limits what tenants publish per second; nil means no limit
	Limits   Limits
	Log      *zap.Logger
}

// Limits apply to tenants without quotas of their own; 0 means no limit. Package app reads them from the environment.
type Limits struct {
	AutoCreate bool  `env:"AUTO_CREATE_QUEUES" envDefault:"false" help:"true: publishing to an unknown queue creates it; for development"`
	Queues     int64 `env:"MAX_QUEUES" envDefault:"1000" help:"most queues of a tenant that has no quota of its own; 0 is no limit"`
	Waiting    int64 `env:"MAX_WAITING" envDefault:"1000000" help:"most messages of a tenant that wait for their time, likewise; roughly, several processes may pass it for a moment"`
	Handlers   int64 `env:"MAX_HANDLERS" envDefault:"256" help:"most messages that a process handles at a time, of all queues and tenants together; 0 is no limit"`
	PerSecond  int64 `env:"MAX_PER_SECOND" envDefault:"0" help:"most messages that a tenant publishes in a second, likewise"`
}

// Check requires that no limit is negative.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.Queues >= 0, "MAX_QUEUES", "must not be negative")
	want(l.Waiting >= 0, "MAX_WAITING", "must not be negative")
	want(l.Handlers >= 0, "MAX_HANDLERS", "must not be negative")
	want(l.PerSecond >= 0, "MAX_PER_SECOND", "must not be negative")
}

// quotas are the quotas of this domain.
type quotas struct{ queues, waiting, perSecond *tenant.Quota }

// waitingFresh is for how long the number of waiting messages of a tenant is cached: reading it for each message would
// cost a statement.
const waitingFresh = time.Second

func newQuotas(l Limits) quotas {
	return quotas{
		queues:    tenant.NewQuota(tenant.QuotaConfig{Name: "queues", What: "queues", Most: l.Queues}),
		waiting:   tenant.NewQuota(tenant.QuotaConfig{Name: "waiting_messages", What: "waiting messages", Most: l.Waiting, Fresh: waitingFresh}),
		perSecond: tenant.NewQuota(tenant.QuotaConfig{Name: "messages_per_second", What: "messages a second", Most: l.PerSecond, Uncounted: true}),
	}
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota {
	return []*tenant.Quota{s.quotas.queues, s.quotas.waiting, s.quotas.perSecond}
}

// New returns a Service. It must be called before the Run of the Notifier.
func New(c Config) *Service {
	s := &Service{
		db: c.DB, handlers: c.Handlers, system: c.System, notifier: c.Notifier, broker: c.Broker, limiter: c.Limiter, log: c.Log,
		limits: c.Limits, quotas: newQuotas(c.Limits), rates: &rates{}, topology: &topology{}, pauses: newQueueSet(selectPaused),
		heardPolicies: make(chan struct{}, 1),
	}
	s.relay, s.operations, s.intents = s.newRelay(), s.newOperations(), s.newIntents()
	s.notifier.Subscribe(channel, func(payload string) {
		if payload == newPolicies || payload == "" {
			loop.Signal(s.heardPolicies)
		}
	})
	return s
}

// Run does the background work that every process with the service needs, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.watchQueues(ctx); return nil })
	group.Go(func() error { return s.rates.run(ctx, s.system, s.log) })
	return group.Wait()
}

// wakeRelay notifies the relays, once tx is committed, that message_waiting has new rows.
func (s *Service) wakeRelay(tx *pg.Tx) {
	tx.AfterCommit(func() { s.notifier.Notify(channel, newWaiting) })
}
