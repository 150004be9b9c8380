package message

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/pg"
)

// Channels of notifications: a hint that there is something new to read.
const (
	waitingChannel = "plinth_waiting" // message_waiting has rows that may be due before all others
	queuesChannel  = "plinth_queues"  // a queue was paused or resumed
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
}

// New makes the service. url is that of db, for connections that listen. With autoCreate, publishing to an unknown queue
// creates it.
func New(db *pg.DB, url string, b broker.Broker, log *zap.Logger, autoCreate bool) *Service {
	return &Service{
		db: db, url: url, broker: b, log: log, autoCreate: autoCreate,
		notifier: pg.NewNotifier(db), rates: &rates{}, topology: &topology{}, pauses: newPauses(),
	}
}

// Run does what every process with the service does beside its calls, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.notifier.Run(ctx) })
	group.Go(func() error { return s.watchPauses(ctx) })
	group.Go(func() error { return s.rates.run(ctx, s.db, s.log) })
	return group.Wait()
}

// wakeRelay tells the relays, once tx is committed, that message_waiting has new rows.
func (s *Service) wakeRelay(tx pgx.Tx) {
	pg.AfterCommit(tx, func() { s.notifier.Notify(waitingChannel, "") })
}
