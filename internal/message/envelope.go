package message

import (
	"maps"
	"strconv"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/broker"
)

// envelope is a message on its way to the broker, with its tenant, its destination, its due time and its past attempts.
// It is sent at once, or stored as a row of message_waiting until it is due.
type envelope struct {
	tenant        string
	id            string
	to            Destination
	due           time.Duration // from now
	dueAt         time.Time     // used instead of due unless it is zero
	attempts      int           // how many failed so far
	reason        string        // of the last failure
	firstFailedAt time.Time     // zero if none failed
	headers       map[string]string
	attributes    map[string]string
	body          []byte

	// Set if a relay has claimed the message:
	place    string // ctid of its row
	lapsed   bool   // its lease is over
	failures int    // of its backlog
	fault    error  // why the row cannot be sent as it is
	doubt    *broker.InDoubt
}

// publication returns the message for the broker, with its tenant and its past attempts in the headers.
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
	return broker.Publication{To: e.to.onBroker(e.tenant), Stored: e.place != "", Message: broker.Message{
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
