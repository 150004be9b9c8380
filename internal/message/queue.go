package message

import (
	"context"
	"encoding/base64"

	"github.com/jackc/pgx/v5"

	"plinth/internal/errs"
)

// Page sizes of lists.
const (
	defaultPage = 100
	maxPage     = 1000
)

// CreateQueue makes a queue. Errors: AlreadyExists.
func (s *Service) CreateQueue(ctx context.Context, name QueueName) (Queue, error) {
	q := Queue{Name: name}
	err := s.db.InTx(ctx, func(tx pgx.Tx) error {
		created, err := insertQueue(ctx, tx, &q)
		if err != nil {
			return err
		}
		if !created {
			return errs.New(errs.AlreadyExists, "name: the queue %q exists already", name)
		}
		return s.broker.Declare(ctx, name.onBroker())
	})
	return q, err
}

// EnsureQueue makes a queue unless it is there.
func (s *Service) EnsureQueue(ctx context.Context, name QueueName) error {
	return s.db.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := insertQueue(ctx, tx, &Queue{Name: name}); err != nil {
			return err
		}
		if _, err := lockQueue(ctx, tx, name); err != nil {
			return err
		}
		return s.broker.Declare(ctx, name.onBroker())
	})
}

// Queue describes a queue, with its depth. Errors: NotFound.
func (s *Service) Queue(ctx context.Context, name QueueName) (Queue, error) {
	q, err := selectQueue(ctx, s.db, name)
	if err != nil {
		return Queue{}, err
	}
	err = known(ctx, name, s.declare, func() (err error) {
		q.Depth, err = s.broker.Ready(ctx, name.onBroker())
		return err
	})
	return q, err
}

// Queues lists queues by name, size of them at most (0 is 100, more than 1,000 are 1,000), from the page that token names. next is empty on
// the last page. Errors: InvalidArgument for a token that Queues did not give.
func (s *Service) Queues(ctx context.Context, size int, token string) (queues []Queue, next string, err error) {
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && token != "" {
		_, err = ParseQueueName(string(after))
	}
	if err != nil {
		return nil, "", errs.New(errs.InvalidArgument, "page_token: not a token of this list; use next_page_token of the page before")
	}
	if size <= 0 {
		size = defaultPage
	}
	size = min(size, maxPage)
	queues, err = selectQueues(ctx, s.db, string(after), size+1)
	if len(queues) > size {
		queues = queues[:size]
		next = base64.RawURLEncoding.EncodeToString([]byte(queues[size-1].Name.String()))
	}
	return queues, next, err
}

// DeleteQueue removes a queue with all its messages. Errors: NotFound.
func (s *Service) DeleteQueue(ctx context.Context, name QueueName) error {
	return s.db.InTx(ctx, func(tx pgx.Tx) error {
		deleted, err := deleteQueue(ctx, tx, name)
		if err != nil {
			return err
		}
		if !deleted {
			return errNoQueue(name)
		}
		return s.broker.Delete(ctx, name.onBroker())
	})
}
