package postgres

import (
	"context"
	"encoding/json"
	"unicode/utf8"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// publication is a message on its way into its queue.
type publication struct {
	queue      string
	id         string
	attributes string // JSON
	body       []byte
}

func (p publication) size() int { return len(p.attributes) + len(p.body) }

// Publish implements broker.Broker. An id that is not a UUID as RFC 9562 writes it, and attributes that are not valid
// UTF-8, are refused with errs.InvalidArgument.
func (b *Broker) Publish(ctx context.Context, queue string, m broker.Message) error {
	if id, err := uuid.Parse(m.ID); err != nil || id.String() != m.ID {
		return errs.New(errs.InvalidArgument, "the message id is not a UUID")
	}
	for key, value := range m.Attributes {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return errs.New(errs.InvalidArgument, "attribute %q is not valid UTF-8", key)
		}
	}
	attributes, err := json.Marshal(m.Attributes)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return b.publishes.do(ctx, b.ended, publication{
		queue:      queue,
		id:         m.ID,
		attributes: string(attributes),
		body:       append([]byte{}, m.Body...), // never nil, which is NULL; the caller may give up and reuse it
	})
}

// publish stores a batch and answers each of its callers.
func (b *Broker) publish(ctx context.Context, batch []call[publication]) {
	queues, err := insertMessages(ctx, b.db, batch)
	for _, id := range queues {
		b.notify(id)
	}
	for _, c := range batch {
		if _, found := queues[c.value.queue]; err == nil && !found {
			c.done <- broker.ErrNoQueue
		} else {
			c.done <- away(err)
		}
	}
}
