package message

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

// maxReason is the maximum length of a stored reason, in bytes.
const maxReason = 1024

// failure is an attempt that failed. Service.fail sets what happened to its message.
type failure struct {
	message   Message // its Attempt is the one that failed
	reason    string
	permanent bool           // a retry cannot help
	postponed bool           // the attempt did not begin, and does not count
	delay     *time.Duration // before the next attempt; nil means the queue's back-off
	most      int            // attempts, if the handler says so; 0 means the queue's max_attempts

	dead bool          // the message became a dead letter
	due  time.Duration // otherwise it comes again after this time
}

// fail moves messages of a queue whose attempt failed: they wait for the next attempt, or become dead letters. After fail
// returns nil, the caller must acknowledge their deliveries. If the process dies before that, they are moved once more,
// which changes nothing as long as they are still there. Messages of a deleted queue are dropped.
func (s *Service) fail(ctx context.Context, queue QueueName, failures ...*failure) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return s.handlers.InTx(ctx, func(tx *pg.Tx) error { return s.failTx(ctx, tx, queue, failures...) })
}

// failTx is fail in a transaction of the caller's.
func (s *Service) failTx(ctx context.Context, tx *pg.Tx, queue QueueName, failures ...*failure) error {
	policy, now, err := lockPolicy(ctx, tx, queue, s.oneLog)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var again []envelope
	for _, f := range failures {
		if f.dead = f.isDead(policy); f.dead {
			if err := insertDeadLetter(ctx, tx, f.deadLetter(queue, now)); err != nil {
				return err
			}
			continue
		}
		again = append(again, f.next(tenantQueue{auth.TenantOf(ctx), queue}, policy, now))
	}
	if len(again) == 0 {
		return nil
	}
	s.wakeRelay(tx)
	return insertWaiting(ctx, tx, again...)
}

// isDead reports whether the message becomes a dead letter.
func (f *failure) isDead(policy Policy) bool {
	return !f.postponed && (f.permanent || f.message.Attempt >= cmp.Or(f.most, policy.MaxAttempts))
}

func (f *failure) deadLetter(queue QueueName, now time.Time) DeadLetter {
	m := f.message
	return DeadLetter{
		ID: uuid.Must(uuid.NewV7()).String(), Queue: queue, MessageID: f.id(), Reason: errs.Shortened(f.reason, maxReason), Attempts: m.Attempt,
		FirstFailedAt: f.first(now), LastFailedAt: now, Attributes: m.Attributes, Body: m.Body, headers: m.headers,
	}
}

// postponedBy is how many attempts are added when the back-off of a postponed message is computed.
const postponedBy = 3

func (f *failure) next(queue tenantQueue, policy Policy, now time.Time) envelope {
	m := f.message
	f.due = loop.Delay(m.Attempt, policy.MinBackoff, policy.MaxBackoff)
	if f.postponed {
		f.due = loop.Delay(m.Attempt+postponedBy, policy.MinBackoff, policy.MaxBackoff)
		m.Attempt--
	}
	if f.delay != nil {
		f.due = *f.delay
	}
	return envelope{
		tenant: queue.tenant, id: f.id(), to: ToQueue(queue.queue), due: f.due, attempts: m.Attempt, reason: errs.Shortened(f.reason, maxReason),
		firstFailedAt: f.first(now), headers: m.headers, attributes: m.Attributes, body: m.Body,
	}
}

func (f *failure) first(now time.Time) time.Time {
	if f.message.firstFailedAt.IsZero() {
		return now
	}
	return f.message.firstFailedAt
}

// id returns the id of the message. A message that did not come from this service may have an id that the tables cannot
// store; it gets a new one.
func (f *failure) id() string {
	if uuid.Validate(f.message.ID) != nil {
		return uuid.Must(uuid.NewV7()).String()
	}
	return f.message.ID
}

// otherTenant is the reason of a message that names a tenant other than its queue's.
const otherTenant = "the message belongs to another tenant"

// Reasons of attempts that nobody settled.
const (
	cutShortPrefix = "delivered "
	unsettled      = cutShortPrefix + "%d times without being settled"
	beforeThat     = "; before that: "
)

// wasCutShort reports whether nobody settled the attempt before this one.
func wasCutShort(m Message) bool { return strings.HasPrefix(m.reason, cutShortPrefix) }

// isSuspect reports whether the message was cut short, and this was not its first failure, so that a lost connection is
// an unlikely cause. This message, or one that was handled at the same time, may have ended the process.
func isSuspect(m Message) bool { return m.Attempt > 2 && wasCutShort(m) }

// cutShort returns the failure of the attempts before this delivery of m, which the broker counted and nobody settled.
func cutShort(m Message) *failure {
	m.Attempt--
	reason, earlier := fmt.Sprintf(unsettled, m.Attempt), m.reason
	if wasCutShort(m) { // The reason says the same of fewer deliveries.
		_, earlier, _ = strings.Cut(earlier, beforeThat)
	}
	if earlier != "" {
		reason += beforeThat + earlier
	}
	return &failure{message: m, reason: reason}
}
