package message

import (
	"context"
	"sync/atomic"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/outbound"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/seal"
	"plinth/internal/share"
	"plinth/internal/tenant"
)

// A notification is a hint that there is something new to read. Its payload is one of these.
const (
	channel       = "plinth_messages"
	newWaiting    = "waiting"    // message_waiting has rows that may be due before all others
	newOperations = "operations" // a redrive or purge was started
	newPolicies   = "queues"     // a queue was created, paused, resumed or deleted
	newIntents    = "intents"    // a change of a queue was not followed by the broker
	newWorkers    = "workers"    // a worker came or went
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
	letters  *tenant.Levels // of dead letters
	queued   *tenant.Levels // of messages and bytes in queues
	limiter  *ratelimit.Limiter
	batches  *share.Pool // messages of large batches in progress
	notifier *pg.Notifier
	rates    *rates
	metrics  *metrics
	tracing  *observe.Tracing
	topology *topology
	stats    statsCache
	own      map[string]func(context.Context, []byte) error // by topic
	pauses   *queueSet
	pullers  *pullers
	watches  *watches
	lanes    lanes
	held     atomic.Int64                     // bytes of what streams have outstanding
	present  atomic.Pointer[queueSet]         // the existing queues of a worker's handlers
	pushed   atomic.Pointer[queueMap[string]] // likewise the versions of the pushes that a worker makes
	outbound *outbound.Client
	secrets  seal.Keys

	countsDepths, oneLog bool

	relay, operations, intents *pg.Due
	heardPolicies              chan struct{} // has a token after a newPolicies notification
	heardWorkers               chan struct{} // likewise after newWorkers
}

// Config configures a Service. The connections are of separate classes, so that they cannot starve each other.
type Config struct {
	DB       *pg.DB     // for calls
	Handlers *pg.DB     // for handlers with a transaction
	System   *pg.System // for the relay and other background work; the relay leaves one of its connections to the latter
	Notifier *pg.Notifier
	Broker   broker.Broker
	Tracing  *observe.Tracing   // nil makes no spans
	Outbound *outbound.Client   // for pushes
	Secrets  seal.Keys          // that what pushes keep secret is sealed with
	Limiter  *ratelimit.Limiter // limits what tenants publish per second; nil means no limit
	Limits   Limits
	// CountsDepths has a worker count the messages in queues, for a broker that does not keep them in the database.
	CountsDepths bool
	// OneLog says that the broker keeps its messages in this database. Then what moves to a table of the service need not be on disk before
	// the ack that removes it from the broker: a crash of the server that loses the one loses the other, too.
	OneLog bool
	Log    *zap.Logger
}

// Limits apply to tenants without quotas of their own; 0 means no limit. Package app reads them from the environment.
type Limits struct {
	AutoCreate bool  `env:"AUTO_CREATE_QUEUES" envDefault:"false" help:"true: publishing to an unknown queue creates it; for development"`
	Queues     int64 `env:"MAX_QUEUES" envDefault:"1000" help:"most queues of a tenant that has no quota of its own; 0 is no limit"`
	Waiting    int64 `env:"MAX_WAITING" envDefault:"1000000" help:"most messages of a tenant that wait for their time, likewise; roughly, several processes may pass it for a moment"`
	Pulled     int64 `env:"MAX_PULLED" envDefault:"100000" help:"most messages of a tenant that were pulled and not settled, likewise"`
	Keys       int64 `env:"MAX_IDEMPOTENCY_KEYS" envDefault:"5000000" help:"most idempotency keys that a tenant uses in 24 hours, likewise"`
	Items      int64 `env:"MAX_OPERATION_ITEMS" envDefault:"2000000" help:"most dead letters that redrives, purges and dry runs of a tenant have chosen and not handled, likewise"`
	Letters    int64 `env:"MAX_DEAD_LETTERS" envDefault:"2000000" help:"most dead letters of a tenant, likewise; a tenant that has as many publishes nothing until some are redriven or purged"`
	Queued     int64 `env:"MAX_QUEUED" envDefault:"10000000" help:"most messages in all queues of a tenant, likewise; with RabbitMQ as they were counted last"`
	Bytes      int64 `env:"MAX_QUEUED_BYTES" envDefault:"10737418240" help:"most bytes of payload in all queues of a tenant, likewise; with RabbitMQ they are not counted"`
	WaitBytes  int64 `env:"MAX_WAITING_BYTES" envDefault:"10737418240" help:"most bytes of payload of a tenant's messages that wait or were pulled, likewise"`
	Handlers   int64 `env:"MAX_HANDLERS" envDefault:"256" help:"most messages that a process handles at a time, of all queues and tenants together; 0 is no limit"`
	Pushes     int64 `env:"MAX_PUSHES" envDefault:"256" help:"most messages that a process pushes to URLs at a time; a tenant gets at most three times as many as stay free, and a queue half of that; 0 is no limit"`
	PerSecond  int64 `env:"MAX_PER_SECOND" envDefault:"0" help:"most messages that a tenant publishes in a second, likewise"`
}

// Check requires that no limit is negative.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.Queues >= 0, "MAX_QUEUES", "must not be negative")
	want(l.Waiting >= 0, "MAX_WAITING", "must not be negative")
	want(l.Pulled >= 0, "MAX_PULLED", "must not be negative")
	want(l.Keys >= 0, "MAX_IDEMPOTENCY_KEYS", "must not be negative")
	want(l.Items >= 0, "MAX_OPERATION_ITEMS", "must not be negative")
	want(l.Letters >= 0, "MAX_DEAD_LETTERS", "must not be negative")
	want(l.Queued >= 0, "MAX_QUEUED", "must not be negative")
	want(l.Bytes >= 0, "MAX_QUEUED_BYTES", "must not be negative")
	want(l.WaitBytes >= 0, "MAX_WAITING_BYTES", "must not be negative")
	want(l.Handlers >= 0, "MAX_HANDLERS", "must not be negative")
	want(l.Pushes >= 0, "MAX_PUSHES", "must not be negative")
	want(l.PerSecond >= 0, "MAX_PER_SECOND", "must not be negative")
}

// New returns a Service. It must be called before the Run of the Notifier.
func New(c Config) *Service {
	s := &Service{
		db: c.DB, handlers: c.Handlers, system: c.System, notifier: c.Notifier, broker: c.Broker, limiter: c.Limiter, log: c.Log, tracing: c.Tracing,
		batches: newBatches(), outbound: c.Outbound, secrets: c.Secrets, countsDepths: c.CountsDepths, oneLog: c.OneLog,
		limits: c.Limits, quotas: newQuotas(c.Limits), rates: &rates{}, metrics: newMetrics(), topology: &topology{}, own: map[string]func(context.Context, []byte) error{}, pauses: newQueueSet(selectPaused),
		heardPolicies: make(chan struct{}, 1), heardWorkers: make(chan struct{}, 1),
	}
	s.lanes.batches = map[*LaneState]bool{}
	s.letters, s.queued = tenant.NewLevels(s.system, s.quotas.letters), tenant.NewLevels(s.system, s.quotas.queued, s.quotas.bytes)
	s.pullers, s.watches = s.newPullers(), &watches{service: s, queues: map[tenantQueue]*watch{}}
	s.relay, s.operations, s.intents = s.newRelay(), s.newOperations(), s.newIntents()
	s.notifier.Subscribe(channel, func(payload string) {
		if payload == newPolicies || payload == "" {
			loop.Signal(s.heardPolicies)
		}
		if payload == newWorkers || payload == "" {
			loop.Signal(s.heardWorkers)
		}
	})
	return s
}

// Run does the background work that every process with the service needs, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer observe.LogPanic(s.log); s.watchQueues(ctx); return nil })
	group.Go(func() error { defer observe.LogPanic(s.log); return s.rates.run(ctx, s.system, s.metrics, s.log) })
	return group.Wait()
}

// wakeRelay notifies the relays, once tx is committed, that message_waiting has new rows.
func (s *Service) wakeRelay(tx *pg.Tx) {
	tx.AfterCommit(func() { s.notifier.Notify(channel, newWaiting) })
}
