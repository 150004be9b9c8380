package message

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
)

// WaitingMessage is a message that waits for its time: one that is delayed, or that waits for its next attempt.
type WaitingMessage struct {
	ID         string
	Queue      QueueName // zero for one that goes to a topic
	Topic      string
	RoutingKey string
	DeliverAt  time.Time
	Attempts   int    // that failed so far
	Reason     string // of the last one
	Body       []byte
	Attributes map[string]string
}

// GetMessage returns a message that waits for its time. One that was published to a topic and waits for its next attempt
// in several queues is returned for the one where it is due first. Errors: InvalidArgument for an id that is no UUID;
// NotFound for any other message, those that are in a queue among them.
func (s *Service) GetMessage(ctx context.Context, id string) (WaitingMessage, error) {
	id, err := parseID(id)
	if err != nil {
		return WaitingMessage{}, err
	}
	return selectWaiting(ctx, s.db, id)
}

// CancelMessage removes a message that waits for its time, for good and in all queues where it waits. A message that is on its
// way to the broker is waited for. Errors are those of GetMessage.
func (s *Service) CancelMessage(ctx context.Context, id string) error {
	id, err := parseID(id)
	if err != nil {
		return err
	}
	// A statement does not see the row that a relay puts back while it waits for that relay; the next one does.
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
