package message

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// WaitingMessage is a message that is delayed or waits for its next attempt.
type WaitingMessage struct {
	ID         string
	Queue      QueueName // zero if it goes to a topic
	Topic      string
	RoutingKey string
	DeliverAt  time.Time
	Attempts   int    // how many failed so far
	Reason     string // of the last failure, or why it waits on
	Body       []byte
	Attributes map[string]string
}

// GetMessage returns a waiting message. A message that was published to a topic and waits for its next attempt in several
// queues is returned for the queue where it is due first. Errors: InvalidArgument for an id that is not a UUID; NotFound
// for any other message, including those that are in a queue.
func (s *Service) GetMessage(ctx context.Context, id string) (WaitingMessage, error) {
	id, err := parseID(id)
	if err != nil {
		return WaitingMessage{}, err
	}
	return selectWaiting(ctx, s.db, id)
}

// CancelMessage removes a waiting message for good, in all queues where it waits, and frees its idempotency key. If the
// message is on its way to the broker, CancelMessage blocks until that is decided. After it returns nil, the message is not
// delivered. Errors are those of GetMessage, and FailedPrecondition if the message was sent and the broker has not told yet
// whether it has it.
func (s *Service) CancelMessage(ctx context.Context, id string) error {
	id, err := parseID(id)
	if err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		// A statement that waits for a relay does not see a row that this relay puts back; the next statement does.
		for range 2 {
			n, inDoubt, err := lockWaiting(ctx, tx, id)
			switch {
			case err != nil:
				return err
			case inDoubt:
				return errs.New(errs.FailedPrecondition, "id: the message %s was sent, and the broker has not told yet whether it has it; "+
					"it can be cancelled no more", id)
			case n > 0:
				return deleteWaiting(ctx, tx, id)
			}
		}
		return errNotWaiting(id)
	})
}

func parseID(id string) (string, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return "", errs.New(errs.InvalidArgument, "id: %.64q is not a UUID", id)
	}
	return parsed.String(), nil
}

func errNotWaiting(id string) error {
	return errs.New(errs.NotFound, "id: the message %s does not wait: it is in a queue, was handled, or was never published", id)
}
