package message

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

// A notification is a hint that there is something new to read. Its payload says where.
const (
	channel     = "plinth_messages"
	newWaiting  = "waiting" // message_waiting has rows that may be due before all others
	newPolicies = "queues"  // a queue was paused, resumed or deleted
)

// Service holds the rules of messages and queues. Its Run must run.
type Service struct {
	db         *pg.DB
	url        string
	broker     broker.Broker
	log        *zap.Logger
	autoCreate bool
	notifier   *pg.Notifier
	rates      *rates
	topology   *topology
	pauses     *pauses

	heardWaiting, heardPolicies chan struct{} // have a token after such a notification
}

// New makes the service. url is that of db, for connections that listen. With autoCreate, publishing to an unknown queue
// creates it.
func New(db *pg.DB, url string, b broker.Broker, log *zap.Logger, autoCreate bool) *Service {
	return &Service{
		db: db, url: url, broker: b, log: log, autoCreate: autoCreate,
		notifier: pg.NewNotifier(db), rates: &rates{}, topology: &topology{}, pauses: newPauses(),
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
	group.Go(func() error { return s.rates.run(ctx, s.db, s.log) })
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
