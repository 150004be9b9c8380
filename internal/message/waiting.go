package message

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
)

// WaitingMessage is a message that is delayed or waits for its next attempt.
type WaitingMessage struct {
	ID         string
	Queue      QueueName // zero if it goes to a topic
	Topic      string
	RoutingKey string
	DeliverAt  time.Time
	Attempts   int    // how many failed so far
	Reason     string // of the last failure
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

// CancelMessage removes a waiting message for good, in all queues where it waits. If the message is on its way to the
// broker, CancelMessage blocks until that is decided. Errors are those of GetMessage.
func (s *Service) CancelMessage(ctx context.Context, id string) error {
	id, err := parseID(id)
	if err != nil {
		return err
	}
	// A statement that waits for a relay does not see a row that this relay puts back; the next statement does.
	for range 2 {
		if deleted, err := deleteWaiting(ctx, s.db, id); deleted || err != nil {
			return err
		}
	}
	return errNotWaiting(id)
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
