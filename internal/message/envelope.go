package message

import (
	"maps"
	"strconv"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/broker"
)

// waiting is a row of message_waiting: a message that goes to the broker later.
type envelope struct {
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
func (e *envelope) publication() broker.Publication {
	headers := make(map[string]string, len(e.headers)+4)
	maps.Copy(headers, e.headers)
	headers[tenantHeader] = e.tenant
	if e.attempts > 0 {
		headers[attemptsHeader] = strconv.Itoa(e.attempts)
		headers[reasonHeader] = e.reason
		if !e.firstFailedAt.IsZero() {
			headers[firstFailedAtHeader] = e.firstFailedAt.UTC().Format(time.RFC3339Nano)
		}
	}
	return broker.Publication{To: e.to.onBroker(e.tenant), Message: broker.Message{
		ID: e.id, Body: e.body, Attributes: e.attributes, Headers: headers,
	}}
}

// MarshalLogObject adds the fields of a message to a log line.
func (e *envelope) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("tenant", e.tenant)
	zap.Dict("message", zap.String("id", e.id), zap.String("queue", e.to.queue.name), zap.String("topic", e.to.topic),
		zap.String("routing_key", e.to.routingKey)).AddTo(line)
	return nil
}
