package message

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// Service holds the rules of messages and queues.
type Service struct {
	db         *pg.DB
	broker     broker.Broker
	log        *zap.Logger
	autoCreate bool
}

// New makes the service. With autoCreate, publishing to an unknown queue creates it.
func New(db *pg.DB, b broker.Broker, log *zap.Logger, autoCreate bool) *Service {
	return &Service{db: db, broker: b, log: log, autoCreate: autoCreate}
}

// Publish puts a message in a queue and gives its id once the broker holds it durably. Errors: NotFound for an unknown
// queue, ResourceExhausted for a message over MaxBytes, Unavailable when its fate is unknown.
func (s *Service) Publish(ctx context.Context, queue QueueName, body []byte, attributes map[string]string) (string, error) {
	if n := (Message{Body: body, Attributes: attributes}).size(); n > MaxBytes {
		return "", errs.New(errs.ResourceExhausted, "the message has %d bytes; at most %d are allowed, attributes included", n, MaxBytes)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	m := broker.Message{ID: id.String(), Body: body, Attributes: attributes}
	tell := s.declare
	if s.autoCreate {
		tell = s.EnsureQueue
	}
	err = known(ctx, queue, tell, func() error { return s.broker.Publish(ctx, queue.onBroker(), m) })
	if err != nil {
		return "", err
	}
	return m.ID, nil
}

// known runs use, and once more after the broker was told of the queue if it does not know it.
func known(ctx context.Context, queue QueueName, tell func(context.Context, QueueName) error, use func() error) error {
	err := use()
	if !errors.Is(err, broker.ErrNoQueue) {
		return err
	}
	if err := tell(ctx, queue); err != nil {
		return err
	}
	return use()
}

// declare tells the broker of a queue that the table knows. The row is locked meanwhile, so that a deletion cannot pass
// between the two and leave the broker with a queue that nobody knows.
func (s *Service) declare(ctx context.Context, queue QueueName) error {
	return s.db.InTx(ctx, func(tx pgx.Tx) error {
		known, err := lockQueue(ctx, tx, queue)
		if err != nil {
			return err
		}
		if !known {
			return errNoQueue(queue)
		}
		return s.broker.Declare(ctx, queue.onBroker())
	})
}

func errNoQueue(queue QueueName) error {
	return errs.New(errs.NotFound, "queue: %q does not exist; create it with CreateQueue", queue)
}
