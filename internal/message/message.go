package message

import (
	"regexp"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// MaxBytes is the most that a message's payload and attributes may have together. It leaves room for the rest of a reply
// within the 4 MiB that gRPC clients take.
const MaxBytes = 3 << 20

// tenant owns every queue until there is identity.
const tenant = "default"

var queueName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

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

// onBroker is the queue's name on the broker, which all tenants share.
func (q QueueName) onBroker() string { return tenant + "." + q.name }

// Queue is a named place for messages.
type Queue struct {
	Name      QueueName
	CreatedAt time.Time
	// Depth counts the messages that wait, those that are outstanding left out. Only Service.Queue fills it.
	Depth int64
}

// Message is one delivery of a message.
type Message struct {
	ID         string // UUIDv7
	Body       []byte
	Attributes map[string]string
	Attempt    int // 1 for the first delivery
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

func fromBroker(d broker.Delivery) Message {
	return Message{ID: d.ID, Body: d.Body, Attributes: d.Attributes, Attempt: d.Attempt}
}
