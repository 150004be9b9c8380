package message

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// waiting is a row of message_waiting: a message that goes to the broker later.
type waiting struct {
	tenant        string
	id            string
	to            Destination
	due           time.Duration // from now
	dueAt         time.Time     // in place of due, unless it is zero
	attempts      int           // that failed so far
	reason        string        // of the last one
	firstFailedAt time.Time     // zero where none failed
	headers       map[string]string
	attributes    map[string]string
	body          []byte

	// Of one that a relay has claimed:
	place    string // of its row
	failures int    // of its backlog
}

// publication is the message as the broker carries it, with its tenant and its past in the headers.
func (w *waiting) publication() broker.Publication {
	headers := make(map[string]string, len(w.headers)+4)
	maps.Copy(headers, w.headers)
	headers[tenantHeader] = w.tenant
	if w.attempts > 0 {
		headers[attemptsHeader] = strconv.Itoa(w.attempts)
		headers[reasonHeader] = w.reason
		if !w.firstFailedAt.IsZero() {
			headers[firstFailedAtHeader] = w.firstFailedAt.UTC().Format(time.RFC3339Nano)
		}
	}
	return broker.Publication{To: w.to.onBroker(w.tenant), Message: broker.Message{
		ID: w.id, Body: w.body, Attributes: w.attributes, Headers: headers,
	}}
}

// keepOne is keep for a message alone.
func (s *Service) keepOne(ctx context.Context, tx *pg.Tx, m *outgoing) error {
	if err := s.keep(ctx, tx, []*outgoing{m}); err != nil {
		return err
	}
	return m.err
}

// keep puts messages in the waiting table and finds out for each whether it is refused, or a duplicate. Its own error is
// the database's and means that nothing was kept.
func (s *Service) keep(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	if err := s.findDestinations(ctx, tx, batch); err != nil {
		return err
	}
	if err := useKeys(ctx, tx, batch); err != nil {
		return err
	}
	var rows []waiting
	for _, m := range batch {
		if m.err == nil && m.duplicateOf == "" {
			rows = append(rows, m.waiting)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if err := s.quotas.waiting.Take(ctx, tx, int64(len(rows))); err != nil {
		return err
	}
	if err := insertWaiting(ctx, tx, rows...); err != nil {
		return err
	}
	s.wakeRelay(tx)
	tx.AfterCommit(func() {
		for _, m := range rows {
			if m.to.topic == "" {
				s.rates.of(owned{m.tenant, m.to.queue}).published.Add(1)
			}
		}
	})
	return nil
}

// findDestinations refuses the messages that lead nowhere. The queues that it finds stay until the transaction ends.
func (s *Service) findDestinations(ctx context.Context, tx *pg.Tx, batch []*outgoing) error {
	queues, topics := map[string]bool{}, map[string]bool{}
	for _, m := range batch {
		if m.to.topic == "" {
			queues[m.to.queue.name] = false
		} else {
			topics[m.to.topic] = true
		}
	}
	if err := s.findQueues(ctx, tx, queues); err != nil {
		return err
	}
	var bindings map[string][]bound
	if len(topics) > 0 {
		var err error
		if bindings, err = selectBindings(ctx, tx, slices.Collect(maps.Keys(topics))...); err != nil {
			return err
		}
	}
	for _, m := range batch {
		switch {
		case m.to.topic == "" && !queues[m.to.queue.name]:
			m.err = errNoQueue(m.to.queue)
		case m.to.topic != "" && len(matching(bindings[m.to.topic], m.to.routingKey)) == 0:
			m.err = errNoMatch(m.to)
		}
	}
	return nil
}

// findQueues marks the queues that exist. With autoCreate it makes the others; the broker hears of those when their first
// message comes.
func (s *Service) findQueues(ctx context.Context, tx *pg.Tx, queues map[string]bool) error {
	if len(queues) == 0 {
		return nil
	}
	if err := keepQueues(ctx, tx, queues); err != nil || !s.limits.AutoCreate {
		return err
	}
	for name, known := range queues {
		if known {
			continue
		}
		if _, err := s.makeQueue(ctx, tx, QueueName{name}, DefaultPolicy); err != nil {
			return err
		}
	}
	return keepQueues(ctx, tx, queues)
}

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
