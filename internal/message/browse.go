package message

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/resource"
)

// View is where the messages of a list are.
type View int

// The views of a queue.
const (
	Ready      View = iota // in the queue, oldest first
	Waiting                // for their time; the first that is due comes first
	PulledView             // and not settled; the first whose lease is over comes first
)

// QueuedMessage is a message of a queue that somebody looks at.
type QueuedMessage struct {
	ID         string
	Attempts   int       // so far, without one that goes on
	Reason     string    // of the last failure; unknown in Ready
	DueAt      time.Time // when it is due, or its lease is over; zero in Ready
	Body       []byte
	Attributes map[string]string

	place int64 // in Ready
}

// ListMessages lists messages of a queue without taking them, in pages as resource.List describes them, of about 2 MiB. Errors: NotFound;
// InvalidArgument for a token that is not of this list; Unimplemented for Ready if the broker cannot show them.
func (s *Service) ListMessages(ctx context.Context, queue QueueName, view View, size int, token string) ([]QueuedMessage, string, error) {
	if _, err := selectQueue(ctx, s.db, queue); err != nil {
		return nil, "", err
	}
	of := []any{"messages", auth.TenantOf(ctx), queue.name, int(view)}
	if view == Ready {
		list := resource.List[QueuedMessage, int64]{
			Of:       of,
			Position: func(m QueuedMessage) string { return strconv.FormatInt(m.place, 10) },
			Parse:    func(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) },
			Select: func(behind int64, size int) ([]QueuedMessage, bool, error) {
				return s.browse(ctx, queue, behind, size, maxPageBytes)
			},
		}
		return list.Page(size, token)
	}
	list := resource.List[QueuedMessage, position]{
		Of:       of,
		Position: func(m QueuedMessage) string { return position{m.DueAt, uuid.MustParse(m.ID)}.String() },
		Parse:    parsePosition,
		Select: func(behind position, size int) ([]QueuedMessage, bool, error) {
			return selectQueued(ctx, s.db, queue, view == PulledView, behind, size)
		},
	}
	return list.Page(size, token)
}

// browse returns messages that are ready.
func (s *Service) browse(ctx context.Context, queue QueueName, behind int64, size, bytes int) (list []QueuedMessage, more bool, err error) {
	shown, more, err := s.broker.Browse(ctx, queue.onBroker(auth.TenantOf(ctx)), behind, size, bytes)
	switch {
	case errors.Is(err, broker.ErrNoQueue): // It came back empty.
		return nil, false, nil
	case errors.Is(err, broker.ErrCannotBrowse):
		return nil, false, errs.Wrap(err, errs.Unimplemented,
			"view: RabbitMQ cannot show what is in a queue without delivering it; MESSAGE_VIEW_WAITING and MESSAGE_VIEW_PULLED are in PostgreSQL")
	case err != nil:
		return nil, false, err
	}
	for _, b := range shown {
		if named, is := b.Headers[tenantHeader]; is && named != auth.TenantOf(ctx) {
			b.Body, b.Attributes = nil, nil // It will be refused, and nobody may see it.
		}
		m := fromBroker(broker.Delivery{Message: b.Message, Attempt: b.Attempts})
		list = append(list, QueuedMessage{ID: m.ID, Attempts: m.Attempt, Body: m.Body, Attributes: m.Attributes, place: b.Place})
	}
	return list, more, nil
}
