package message

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
	"plinth/internal/tenant"
)

// A notification is a hint that there is something new to read. Its payload says where.
const (
	channel     = "plinth_messages"
	newWaiting  = "waiting" // message_waiting has rows that may be due before all others
	newPolicies = "queues"  // a queue was paused, resumed or deleted
)

// Service holds the rules of messages and queues. Its Run must run.
type Service struct {
	db       *pg.DB // acts for the tenant of the context
	system   *pg.DB // acts for all tenants
	url      string
	broker   broker.Broker
	log      *zap.Logger
	limits   Limits
	quotas   quotas
	limiter  *ratelimit.Limiter // nil limits no rates
	notifier *pg.Notifier
	rates    *rates
	topology *topology
	pauses   *queueSet

	heardWaiting, heardPolicies chan struct{} // have a token after such a notification
}

// Limits are what tenants without quotas of their own may have; 0 is no limit.
type Limits struct {
	AutoCreate bool  // publishing to an unknown queue creates it
	Queues     int64 // of a tenant
	Waiting    int64 // messages of a tenant that wait for their time
	PerSecond  int64 // messages that a tenant publishes in a second
}

// quotas are the tenants' limits on what this domain keeps for them.
type quotas struct{ queues, waiting, perSecond *tenant.Quota }

// waitingFresh is how long a count of waiting messages is used again: counting them costs more than keeping one.
const waitingFresh = 2 * time.Second

func newQuotas(l Limits) quotas {
	return quotas{
		queues:    tenant.NewQuota("queues", "queues", l.Queues, countQueues, 0),
		waiting:   tenant.NewQuota("waiting_messages", "waiting messages", l.Waiting, countWaiting, waitingFresh),
		perSecond: tenant.NewQuota("messages_per_second", "messages a second", l.PerSecond, nil, 0),
	}
}

// Quotas are those of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota {
	return []*tenant.Quota{s.quotas.queues, s.quotas.waiting, s.quotas.perSecond}
}

// New makes the service. url is that of db, for connections that listen. limiter counts what tenants publish in a second; nil
// does not.
func New(db *pg.DB, url string, b broker.Broker, log *zap.Logger, limiter *ratelimit.Limiter, limits Limits) *Service {
	return &Service{
		db: db, system: db.System(), url: url, broker: b, log: log, limiter: limiter, limits: limits, quotas: newQuotas(limits),
		notifier: pg.NewNotifier(db), rates: &rates{}, topology: &topology{}, pauses: newQueueSet(selectPaused),
		heardWaiting: make(chan struct{}, 1), heardPolicies: make(chan struct{}, 1),
	}
}

// Run does what every process with the service does beside its calls, until ctx ends. An error means that the database's URL
// is not usable.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.notifier.Run(ctx) })
	group.Go(func() error { return pg.Listen(ctx, s.url, channel, s.log, s.hear) })
	group.Go(func() error { s.watchPauses(ctx); return nil })
	group.Go(func() error { return s.rates.run(ctx, s.system, s.log) })
	return group.Wait()
}

// hear takes a notification; an empty payload stands for all that may have been missed.
func (s *Service) hear(payload string) {
	if payload != newPolicies {
		give(s.heardWaiting)
	}
	if payload != newWaiting {
		give(s.heardPolicies)
	}
}

// wakeRelay tells the relays, once tx is committed, that message_waiting has new rows.
func (s *Service) wakeRelay(tx pgx.Tx) {
	pg.AfterCommit(tx, func() { s.notifier.Notify(channel, newWaiting) })
}
