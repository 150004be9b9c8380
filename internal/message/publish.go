package message

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/ratelimit"
)

// MaxDelay is the longest time by which the delivery of a message can be delayed.
const MaxDelay = 365 * 24 * time.Hour

// Limits of a message's attributes and idempotency key, in bytes. Every broker accepts what is within them, so that a waiting
// message is not refused when it is due.
const (
	maxAttributeKey  = 255
	maxAttributes    = 96 << 10 // of all together, plus attributeCost for each
	attributeCost    = 6
	maxIdempotentKey = 255
)

// Publication is a message to publish. It belongs to the trace of the context that it is published with.
type Publication struct {
	To Destination
	// Body and Attributes together have at most MaxBytes.
	Body []byte
	// Attributes must be valid UTF-8. A key has at most 255 bytes, and all attributes together at most 96 KiB, with 6
	// bytes added for each.
	Attributes map[string]string
	// IdempotencyKey makes it safe to publish a message again: for 24 hours, the same message with the same key is not
	// published, and the id of the first one is returned. At most 255 bytes; empty means no key. Cancelling the message and
	// purging its queue free the key.
	IdempotencyKey string
	// Delay is how long to wait before the message is delivered, at most MaxDelay.
	Delay time.Duration
	// DeliverAt is when to deliver the message, as an alternative to Delay: at most MaxDelay ahead. A time in the past
	// means at once.
	DeliverAt time.Time
	// Origin is for what is published in a transaction.
	Origin Origin
}

// Origin is whose word a message is, and which quotas refuse it.
type Origin int

// Origins of messages.
const (
	// FromClient is for what a client publishes, or the service because a client asked for it.
	FromClient Origin = iota
	// Event is for what the service tells of. Neither dead letters nor full queues are a reason to refuse what it tells of, but too many
	// waiting messages are.
	Event
	// EndEvent tells of the end of what an Event told of, such as a deletion, which no quota refuses. There are no more of them than of those.
	EndEvent
)

// Receipt is the result of publishing a message that is now held durably.
type Receipt struct {
	ID string // UUIDv7
	// Duplicate reports whether the idempotency key was used before. Then ID is that of the message published first.
	Duplicate bool
}

// Publish puts a message in a queue, or in every queue that its topic leads to. It returns when the broker holds the
// message durably. With a delay or an idempotency key, it returns when the message is committed; the message is sent to
// the broker when it is due.
//
// Errors: InvalidArgument; FailedPrecondition, with the reason IDEMPOTENCY_KEY_REUSED, if the tenant used the key for another
// message; NotFound for an unknown queue, and for a topic that no queue is bound to with a matching
// pattern; ResourceExhausted for a message over MaxBytes, for a queue at its MaxLength, and if a quota of the tenant is
// used up; Unavailable if it is unknown whether the message was published.
func (s *Service) Publish(ctx context.Context, p Publication) (Receipt, error) {
	m, err := newOutgoing(ctx, p)
	if err == nil {
		err = s.limitRate(ctx, 1)
	}
	if err != nil {
		return Receipt{}, err
	}
	s.admit(ctx, m)
	if m.now() {
		if m.err = m.refusal; m.err == nil {
			m.err = s.send(ctx, m)
			s.sent(ctx, &m.envelope)
		}
		return m.receipt(), m.err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error { return s.holdOne(ctx, tx, m) })
	return m.receipt(), err
}

// limitRate takes n messages from what the tenant may publish per second. Messages that the service itself publishes in a
// transaction are not limited.
func (s *Service) limitRate(ctx context.Context, n int) error {
	most := s.quotas.perSecond.Limit(ctx)
	if most == 0 || s.limiter == nil {
		return nil
	}
	d := s.limiter.Take(ctx, int64(n), ratelimit.Limit{Tenant: auth.TenantOf(ctx), Kind: "messages", Rate: auth.Rate{Count: most, Per: time.Second}})
	switch {
	case d.Allowed:
		return nil
	case int64(n) > most:
		return errs.New(errs.ResourceExhausted, "quota: the tenant may publish %d messages a second, and this batch has %d", most, n).Because("RATE_LIMITED")
	}
	return errs.New(errs.ResourceExhausted, "quota: the tenant may publish %d messages a second, and a batch counts as its messages; "+
		"try again in %v", most, d.RetryAfter.Round(time.Millisecond)).Because("RATE_LIMITED").After(d.RetryAfter)
}

// PublishTx publishes a message when tx is committed, and not at all if it is rolled back. Where the tenant has too much in its
// queues, it waits for room. tx must be from InTx. Errors are those of Publish otherwise; an error of the database makes tx unusable.
func (s *Service) PublishTx(ctx context.Context, tx *pg.Tx, p Publication) (Receipt, error) {
	m, err := newOutgoing(ctx, p)
	if err != nil {
		return Receipt{}, err
	}
	if err = s.admitTx(ctx, tx, []*outgoing{m}); err != nil {
		return Receipt{}, err
	}
	err = s.holdOne(ctx, tx, m)
	return m.receipt(), err
}

// outgoing is a valid publication and its outcome.
type outgoing struct {
	envelope
	key string
	// claimed is whether the key was free, and stands for this message now.
	claimed bool
	// duplicateOf is the id of the message that was published with the key before, if any.
	duplicateOf string
	refusal     error // of a quota, which applies unless the message is a duplicate
	origin      Origin
	err         error
}

// newOutgoing checks a publication and assigns it an id.
func newOutgoing(ctx context.Context, p Publication) (*outgoing, error) {
	due, at, err := p.when(time.Now())
	if err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	return &outgoing{key: p.IdempotencyKey, origin: p.Origin, envelope: envelope{
		tenant: auth.TenantOf(ctx), id: id.String(), to: p.To, due: due, dueAt: at,
		headers: traceHeaders(ctx), attributes: p.Attributes, body: p.Body,
	}}, nil
}

// atOnce reports whether the message is to be in its queue at once.
func (m *outgoing) atOnce() bool { return m.due == 0 && m.dueAt.IsZero() }

// now reports whether the message can be sent to the broker without the database.
func (m *outgoing) now() bool { return m.atOnce() && m.key == "" }

func (m *outgoing) receipt() Receipt {
	switch {
	case m.err != nil:
		return Receipt{}
	case m.duplicateOf != "":
		return Receipt{ID: m.duplicateOf, Duplicate: true}
	default:
		return Receipt{ID: m.id}
	}
}

// when returns the delay or the due time of the message. Both are zero for a message that is to be sent at once.
func (p Publication) when(now time.Time) (delay time.Duration, at time.Time, err error) {
	ahead := p.DeliverAt.Sub(now)
	switch {
	case p.Delay != 0 && !p.DeliverAt.IsZero():
		return 0, at, errs.New(errs.InvalidArgument, "deliver_time: only one of delay and deliver_time can be set")
	case p.Delay < 0 || p.Delay > MaxDelay:
		return 0, at, errs.New(errs.InvalidArgument, "delay: 0 to 365 days are allowed")
	case ahead > MaxDelay:
		return 0, at, errs.New(errs.InvalidArgument, "deliver_time: up to 365 days ahead are allowed")
	case ahead <= 0:
		return p.Delay, at, nil
	default:
		return 0, p.DeliverAt, nil
	}
}

func (p Publication) check() error {
	if n := (Message{Body: p.Body, Attributes: p.Attributes}).size(); n > MaxBytes {
		return errs.New(errs.ResourceExhausted, "the message has %d bytes; at most %d are allowed, attributes included", n, MaxBytes)
	}
	key := p.IdempotencyKey
	if len(key) > maxIdempotentKey || !pg.IsText(key) {
		return errs.New(errs.InvalidArgument, "idempotency_key: up to %d bytes of UTF-8 without U+0000 are allowed", maxIdempotentKey)
	}
	size := 0
	for key, value := range p.Attributes {
		if len(key) > maxAttributeKey || !utf8.ValidString(key) || !utf8.ValidString(value) {
			return errs.New(errs.InvalidArgument, "attributes: %.64q is not allowed: keys have up to %d bytes, and both they and values are UTF-8",
				key, maxAttributeKey)
		}
		size += len(key) + len(value) + attributeCost
	}
	if size > maxAttributes {
		return errs.New(errs.InvalidArgument, "attributes: %d bytes; at most %d are allowed, %d added for each", size, maxAttributes, attributeCost)
	}
	return nil
}

// Headers of the trace, by W3C's names.
const (
	traceParentHeader = "traceparent"
	traceStateHeader  = "tracestate"
)

func traceHeaders(ctx context.Context) map[string]string {
	parent, state := observe.Trace(ctx)
	switch {
	case parent == "":
		return nil
	case state == "":
		return map[string]string{traceParentHeader: parent}
	default:
		return map[string]string{traceParentHeader: parent, traceStateHeader: state}
	}
}

// send publishes a message to the broker.
func (s *Service) send(ctx context.Context, m *outgoing) error {
	if m.to.topic != "" {
		m.err = m.to.explain(s.sendBatch(ctx, s.db, []*envelope{&m.envelope}, ofCalls, s.declarer())[0])
		return m.err
	}
	p := m.publication()
	err := onDeclared(ctx, m.to.queue, s.declarer(), func() error { return s.broker.Publish(ctx, p.To, p.Message) })
	if errors.Is(err, broker.ErrFull) {
		err = whyRefused(ctx, s.db, m.to)
	}
	if m.err = m.to.explain(err); m.err == nil {
		s.rates.of(tenantQueue{m.tenant, m.to.queue}).published.Add(1)
	}
	return m.err
}

// declarer returns the function that a publisher calls for a queue that the broker does not know.
func (s *Service) declarer() func(context.Context, QueueName) error {
	if s.limits.AutoCreate {
		return s.EnsureQueue
	}
	return s.declare
}

// explain returns the broker's error as one that names the queue or topic.
func (d Destination) explain(err error) error {
	switch {
	case errors.Is(err, broker.ErrFull) && d.topic == "":
		return errs.Wrap(err, errs.ResourceExhausted, "queue: %q is full: it has its max_length", d.queue)
	case errors.Is(err, broker.ErrFull):
		return errs.Wrap(err, errs.ResourceExhausted, "topic: a queue that is bound to %q is full: it has its max_length; "+
			"the others may have the message", d.topic)
	case errors.Is(err, broker.ErrNoQueue) && d.topic == "":
		return errNoQueue(d.queue)
	case errors.Is(err, broker.ErrNoQueue):
		return errNoMatch(d)
	default:
		return err
	}
}
