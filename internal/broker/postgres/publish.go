package postgres

import (
	"context"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// publication is a message on its way into its queues.
type publication struct {
	queue, topic, path string
	id                 string
	headers            string // JSON
	attributes         string // JSON
	body               []byte
}

func (p publication) size() int { return len(p.headers) + len(p.attributes) + len(p.body) }

// Publish implements broker.Broker. It returns errs.InvalidArgument for an id that is not a UUID in the form of RFC 9562,
// and for text that is not valid UTF-8.
func (b *Broker) Publish(ctx context.Context, to broker.Address, m broker.Message) error {
	return b.PublishBatch(ctx, []broker.Publication{{To: to, Message: m}})[0]
}

// PublishBatch implements broker.Broker.
func (b *Broker) PublishBatch(ctx context.Context, batch []broker.Publication) []error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	outcomes := make([]error, len(batch))
	var valid []publication
	var places []int // of the valid ones in the batch
	for i, p := range batch {
		v, err := newPublication(p)
		if err != nil {
			outcomes[i] = err
			continue
		}
		valid, places = append(valid, v), append(places, i)
	}
	for i, err := range b.publishes.do(ctx, b.ended, valid...) {
		outcomes[places[i]] = err
	}
	return outcomes
}

// newPublication refuses what the database would refuse: the database would refuse everything else in the same statement
// with it.
func newPublication(p broker.Publication) (publication, error) {
	if id, err := uuid.Parse(p.ID); err != nil || id.String() != p.ID {
		return publication{}, errs.New(errs.InvalidArgument, "the message id is not a UUID")
	}
	for what, text := range map[string]string{"queue": p.To.Queue, "topic": p.To.Topic, "routing_key": p.To.RoutingKey} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return publication{}, errs.New(errs.InvalidArgument, "%s is not valid UTF-8, or has the character U+0000", what)
		}
	}
	headers, err := object("header", p.Headers)
	if err != nil {
		return publication{}, err
	}
	attributes, err := object("attribute", p.Attributes)
	return publication{
		queue:      p.To.Queue,
		topic:      p.To.Topic,
		path:       pathOf(p.To.RoutingKey),
		id:         p.ID,
		headers:    headers,
		attributes: attributes,
		body:       append([]byte{}, p.Body...), // never nil, which is NULL; the caller may give up and reuse it
	}, err
}

// object returns strings as a JSON object.
func object(what string, values map[string]string) (string, error) {
	for key, value := range values {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return "", errs.New(errs.InvalidArgument, "%s %q is not valid UTF-8", what, key)
		}
	}
	text, err := json.Marshal(values)
	return string(text), err
}

// publish stores a batch and answers each of its callers.
func (b *Broker) publish(ctx context.Context, batch []call[publication]) {
	copies, err := insertMessages(ctx, b.db, batch)
	if err != nil {
		for _, c := range batch {
			c.done <- away(err)
		}
		return
	}
	found, full := make([]bool, len(batch)), make([]bool, len(batch))
	for _, p := range copies {
		found[p.n] = true
		if p.kept {
			b.notify(p.queue)
		} else {
			full[p.n] = true
		}
	}
	for i, c := range batch {
		switch {
		case !found[i]:
			c.done <- broker.ErrNoQueue
		case full[i]:
			c.done <- broker.ErrFull
		default:
			c.done <- nil
		}
	}
}
