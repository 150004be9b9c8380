package message

import (
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap/zapcore"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// MaxBytes is the maximum size of a message's payload and attributes together. It leaves room for the rest of a reply
// within the 4 MiB that gRPC clients accept.
const MaxBytes = 3 << 20

// maxPageBytes is the size at which a page of a list ends early, so that a reply stays within the same 4 MiB.
const maxPageBytes = 2 << 20

var (
	queueName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	topicName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	routingKey = regexp.MustCompile(`^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?$`)
)

const maxRoutingKey = 120

// QueueName is a valid name of a queue: 1 to 128 letters, digits, '.', '_' and '-', the first one a letter or digit.
type QueueName struct{ name string }

// ParseQueueName returns name as a QueueName. Errors: InvalidArgument.
func ParseQueueName(name string) (QueueName, error) {
	if !queueName.MatchString(name) {
		return QueueName{}, errs.New(errs.InvalidArgument, "queue: %.128q is not a queue name: "+
			"1 to 128 letters, digits, '.', '_' and '-', the first one a letter or digit", name)
	}
	return QueueName{name}, nil
}

func (q QueueName) String() string { return q.name }

// onBroker returns the name of a tenant's queue on the broker, which all tenants share.
func (q QueueName) onBroker(tenant string) string { return tenant + "." + q.name }

// tenantQueue is the queue of one tenant. Other tenants may have queues of the same name.
type tenantQueue struct {
	tenant string
	queue  QueueName
}

// MarshalLogObject adds the tenant and the queue to a log line.
func (q tenantQueue) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("tenant", q.tenant)
	line.AddString("queue", q.queue.name)
	return nil
}

// Destination is where a message goes: a queue, or every queue that is bound to a topic with a pattern that matches the
// routing key.
type Destination struct {
	queue             QueueName
	topic, routingKey string // set if queue is not
}

// ToQueue returns the destination of one queue.
func ToQueue(queue QueueName) Destination { return Destination{queue: queue} }

// ToTopic returns the destination of a topic and routing key. A topic is like a queue's name but has at most 64 characters.
// A routing key is empty, or consists of words of letters, digits, '_' and '-' with dots between them, 120 bytes at most.
// Errors: InvalidArgument.
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

// onBroker returns a tenant's address on the broker, which all tenants share.
func (d Destination) onBroker(tenant string) broker.Address {
	if d.topic == "" {
		return broker.Address{Queue: d.queue.onBroker(tenant)}
	}
	return broker.Address{Topic: topicOnBroker(tenant, d.topic), RoutingKey: d.routingKey}
}

// topicOnBroker returns the name of a tenant's topic on the broker. A dot is enough to separate the two, since a tenant's
// name contains none.
func topicOnBroker(tenant, topic string) string { return tenant + "." + topic }

// Message is one delivery of a message.
type Message struct {
	ID         string // UUIDv7
	Body       []byte
	Attributes map[string]string
	Attempt    int // 1 for the first delivery

	firstFailedAt time.Time         // zero if no failure is known
	reason        string            // of the last known failure
	headers       map[string]string // the trace headers, for what the handler does
}

// PublishedAt returns when the message was published, to the millisecond, as its id records it. It returns the zero time
// for an id that is not a UUIDv7.
func (m Message) PublishedAt() time.Time {
	id, err := uuid.Parse(m.ID)
	if err != nil || id.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(id.Time().UnixTime()).UTC()
}

// plainID returns an id that is a UUID written as a URN as the UUID alone, since tables do not take it otherwise. Ids of messages that
// did not come from this service can have any form.
func plainID(id string) string {
	const urn = "urn:uuid:"
	if len(id) > len(urn) && strings.EqualFold(id[:len(urn)], urn) && uuid.Validate(id) == nil {
		return id[len(urn):]
	}
	return id
}

func (m Message) size() int {
	n := len(m.Body)
	for k, v := range m.Attributes {
		n += len(k) + len(v)
	}
	return n
}

// Headers that carry a message's tenant and its earlier attempts through the broker. All others belong to the trace.
const (
	tenantHeader        = "tenant"
	attemptsHeader      = "attempts" // how many failed before it came to the queue
	firstFailedAtHeader = "first-failed-at"
	reasonHeader        = "reason"
)

func fromBroker(d broker.Delivery) Message {
	m := Message{ID: plainID(d.ID), Body: d.Body, Attributes: d.Attributes, Attempt: d.Attempt}
	_, named := d.Headers[tenantHeader] // The source has checked it.
	if len(d.Headers) == 0 || len(d.Headers) == 1 && named {
		return m // True of most messages. Parsing the headers would cost as much as an ack.
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
