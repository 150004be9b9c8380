package message

import (
	"maps"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap/zapcore"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// MaxBytes is the most that a message's payload and attributes may have together. It leaves room for the rest of a reply
// within the 4 MiB that gRPC clients take.
const MaxBytes = 3 << 20

// maxPageBytes ends a page of a list early, so that a reply stays within the same.
const maxPageBytes = 2 << 20

var (
	queueName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	topicName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	routingKey = regexp.MustCompile(`^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?$`)
)

const maxRoutingKey = 120

// QueueName is the valid name of a queue: 1 to 128 letters, digits, '.', '_' and '-', the first one a letter or digit.
type QueueName struct{ name string }

// ParseQueueName checks a name. Errors: InvalidArgument.
func ParseQueueName(name string) (QueueName, error) {
	if !queueName.MatchString(name) {
		return QueueName{}, errs.New(errs.InvalidArgument, "queue: %.128q is not a queue name: "+
			"1 to 128 letters, digits, '.', '_' and '-', the first one a letter or digit", name)
	}
	return QueueName{name}, nil
}

func (q QueueName) String() string { return q.name }

// onBroker is the name of a tenant's queue on the broker, which all tenants share.
func (q QueueName) onBroker(tenant string) string { return tenant + "." + q.name }

// tenantQueue is the queue of one tenant. Others may have queues of the same name.
type tenantQueue struct {
	tenant string
	queue  QueueName
}

// MarshalLogObject gives the fields of a log line.
func (q tenantQueue) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("tenant", q.tenant)
	line.AddString("queue", q.queue.name)
	return nil
}

// Destination is where a message goes: a queue, or every queue that is bound to a topic with a pattern that matches the
// routing key.
type Destination struct {
	queue             QueueName
	topic, routingKey string // where there is no queue
}

// ToQueue is the destination of one queue.
func ToQueue(queue QueueName) Destination { return Destination{queue: queue} }

// ToTopic checks a topic, which is like a queue's name of up to 64 letters, and a routing key: words of letters, digits,
// '_' and '-' with dots between them, 120 bytes at most, or nothing. Errors: InvalidArgument.
func ToTopic(topic, key string) (Destination, error) {
	if !topicName.MatchString(topic) {
		return Destination{}, errs.New(errs.InvalidArgument, "topic: %.64q is not a topic: "+
			"1 to 64 letters, digits, '.', '_' and '-', the first one a letter or digit", topic)
	}
	if len(key) > maxRoutingKey || !routingKey.MatchString(key) {
		return Destination{}, errs.New(errs.InvalidArgument, "routing_key: %.120q is not a routing key: "+
			"words of letters, digits, '_' and '-' with dots between them, %d bytes at most", key, maxRoutingKey)
	}
	return Destination{topic: topic, routingKey: key}, nil
}

// onBroker is a tenant's address on the broker, which all tenants share.
func (d Destination) onBroker(tenant string) broker.Address {
	if d.topic == "" {
		return broker.Address{Queue: d.queue.onBroker(tenant)}
	}
	return broker.Address{Topic: topicOnBroker(tenant, d.topic), RoutingKey: d.routingKey}
}

// topicOnBroker needs no more than a dot: a tenant's name has none.
func topicOnBroker(tenant, topic string) string { return tenant + "." + topic }

// Message is one delivery of a message.
type Message struct {
	ID         string // UUIDv7
	Body       []byte
	Attributes map[string]string
	Attempt    int // 1 for the first delivery

	firstFailedAt time.Time         // zero where no failure is known
	reason        string            // of the last failure that is known
	headers       map[string]string // the trace, for what follows from the message
}

// PublishedAt is when the message was published, to the millisecond: its id holds it. Zero for an id that is no UUIDv7.
func (m Message) PublishedAt() time.Time {
	id, err := uuid.Parse(m.ID)
	if err != nil || id.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(id.Time().UnixTime()).UTC()
}

func (m Message) size() int {
	n := len(m.Body)
	for k, v := range m.Attributes {
		n += len(k) + len(v)
	}
	return n
}

// Headers that carry a message's tenant and past through the broker. All others are the trace's.
const (
	tenantHeader        = "tenant"
	attemptsHeader      = "attempts" // that failed before it came to the queue
	firstFailedAtHeader = "first-failed-at"
	reasonHeader        = "reason"
)

func fromBroker(d broker.Delivery) Message {
	m := Message{ID: d.ID, Body: d.Body, Attributes: d.Attributes, Attempt: d.Attempt}
	_, named := d.Headers[tenantHeader] // source has compared it.
	if len(d.Headers) == 0 || len(d.Headers) == 1 && named {
		return m // As with most messages, and parsing nothing would cost as much as an ack.
	}
	m.headers = maps.Clone(d.Headers)
	if before, err := strconv.Atoi(m.headers[attemptsHeader]); err == nil {
		m.Attempt += before
	}
	m.firstFailedAt, _ = time.Parse(time.RFC3339Nano, m.headers[firstFailedAtHeader])
	m.reason = m.headers[reasonHeader]
	for _, ours := range []string{tenantHeader, attemptsHeader, firstFailedAtHeader, reasonHeader} {
		delete(m.headers, ours)
	}
	return m
}
