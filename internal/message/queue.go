package message

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// Queue is a named place for messages.
type Queue struct {
	Name      QueueName
	CreatedAt time.Time
	Policy
	Paused bool
	// Stats is nil unless the queue was returned by Service.GetQueue; likewise PushStatus, and without a push.
	Stats      *Stats
	PushStatus *PushStatus
}

// Policy determines how the messages of a queue are handled.
type Policy struct {
	MaxAttempts            int           // after this many failures, a message becomes a dead letter
	MinBackoff, MaxBackoff time.Duration // of the first retry, and of any
	MessageTTL             time.Duration // 0 means none; fixed when the queue is created
	MaxLength              int64         // 0 means none; fixed when the queue is created
	DeadLetterRetention    time.Duration
	Bindings               []Binding
	Push                   *Push // nil is none; of a Queue it has its secret only where the call has set that
}

// bindingCost is the size of a binding in a reply beyond its topic and pattern, in bytes.
const bindingCost = 32

// Binding binds a queue to a topic. Pattern consists of words with dots between them; "*" stands for one word, "#" for
// any number of words.
type Binding struct{ Topic, Pattern string }

// Stats are the contents and the traffic of a queue.
type Stats struct {
	Depth       int64 // messages in the queue, without the outstanding ones
	Waiting     int64 // rows of message_waiting for the queue, without those that were pulled
	Pulled      int64 // messages that were pulled and not settled
	DeadLetters int64
	Rates       Rates
}

// Rates are messages per second over the last minute.
type Rates struct{ Published, Delivered, Acknowledged float64 }

// DefaultPolicy is the policy of a queue that is created without one.
var DefaultPolicy = Policy{
	MaxAttempts: 10, MinBackoff: time.Second, MaxBackoff: 10 * time.Minute, DeadLetterRetention: 30 * 24 * time.Hour,
}

// complete returns p with the defaults in place of fields that are zero.
func (p Policy) complete() Policy {
	p.MaxAttempts = cmp.Or(p.MaxAttempts, DefaultPolicy.MaxAttempts)
	p.MinBackoff = cmp.Or(p.MinBackoff, DefaultPolicy.MinBackoff)
	p.MaxBackoff = cmp.Or(p.MaxBackoff, DefaultPolicy.MaxBackoff)
	p.DeadLetterRetention = cmp.Or(p.DeadLetterRetention, DefaultPolicy.DeadLetterRetention)
	return p
}

// check validates what depends on several fields, and what the broker cannot represent.
func (p Policy) check() error {
	if p.MaxBackoff < p.MinBackoff {
		return errs.New(errs.InvalidArgument, "max_backoff: %v is less than min_backoff, which is %v", p.MaxBackoff, p.MinBackoff)
	}
	if p.MessageTTL%time.Millisecond != 0 {
		return errs.New(errs.InvalidArgument, "message_ttl: %v is no number of whole milliseconds", p.MessageTTL)
	}
	return nil
}

// CreateQueue creates a queue. Zero fields of the policy are replaced with those of DefaultPolicy. Errors: AlreadyExists;
// ResourceExhausted if the tenant may have no more queues; InvalidArgument for a max_backoff below min_backoff, or a
// message_ttl that is not a whole number of milliseconds; FailedPrecondition if the broker has a queue of the name with
// another message_ttl or max_length; Unavailable if the broker is away, and then the queue is not created.
func (s *Service) CreateQueue(ctx context.Context, name QueueName, policy Policy) (q Queue, err error) {
	policy = policy.complete()
	policy.Push = policy.Push.clone()
	if err := errors.Join(policy.check(), checkPatterns(policy.Bindings, nil)); err != nil {
		return Queue{}, err
	}
	if err := s.preparePush(nil, policy.Push, time.Now()); err != nil {
		return Queue{}, err
	}
	open := policy.Push
	policy.Push = s.sealPush(auth.TenantOf(ctx), open)
	i := newIntent(name)
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		created, err := s.insertQueueWithinQuota(ctx, tx, name, policy)
		if err != nil {
			return err
		}
		if !created {
			return errs.New(errs.AlreadyExists, "name: the queue %q exists already", name)
		}
		if q, err = selectQueue(ctx, tx, name); err != nil {
			return err
		}
		return insertIntent(ctx, tx, i, intentLease)
	})
	if err != nil {
		return Queue{}, err
	}
	if err := s.follow(ctx, i); err != nil {
		return Queue{}, s.undo(ctx, i, err)
	}
	q.Push = open.shown(pushSecret(nil, open))
	return q, nil
}

// insertQueueWithinQuota inserts the rows of a queue if the quota of the tenant allows one more. created is false if the
// queue exists already.
func (s *Service) insertQueueWithinQuota(ctx context.Context, tx *pg.Tx, name QueueName, policy Policy) (created bool, err error) {
	exists, err := lockQueue(ctx, tx, name)
	if err != nil || exists {
		return false, err
	}
	removing, err := isBeingRemoved(ctx, tx, name)
	if err != nil {
		return false, err
	}
	if removing {
		return false, errs.New(errs.Unavailable, "queue: %q was deleted, and its messages are still being removed; try again", name)
	}
	if err := s.quotas.queues.Take(ctx, tx, 1); err != nil {
		return false, err
	}
	tx.AfterCommit(func() { s.notifier.Notify(channel, newPolicies) })
	return insertQueue(ctx, tx, name, policy)
}

// EnsureQueue creates a queue with the DefaultPolicy if it does not exist; an existing queue keeps its policy. Afterwards
// the queue is declared on the broker.
func (s *Service) EnsureQueue(ctx context.Context, name QueueName) error {
	err := s.db.InTx(ctx, func(tx *pg.Tx) error {
		_, err := s.insertQueueWithinQuota(ctx, tx, name, DefaultPolicy)
		return err
	})
	if err != nil {
		return err
	}
	return s.declare(ctx, name)
}

// GetQueue returns a queue with its Stats. Those of a queue with very many messages may be seconds old. Errors: NotFound.
func (s *Service) GetQueue(ctx context.Context, name QueueName) (Queue, error) {
	q, err := selectQueue(ctx, s.db, name)
	if err != nil {
		return Queue{}, err
	}
	if q.Push != nil {
		if q.PushStatus, err = selectPushStatus(ctx, s.db, name); err != nil {
			return Queue{}, err
		}
	}
	stats, err := s.readStats(ctx, name)
	q.Stats = &stats
	return q, err
}

// ListQueues lists queues by name, in pages as resource.List describes them, of about 2 MiB. Errors: InvalidArgument for
// a token that is not of this list.
func (s *Service) ListQueues(ctx context.Context, size int, token string) (queues []Queue, next string, err error) {
	list := resource.List[Queue, QueueName]{
		Of:       []any{"queues", auth.TenantOf(ctx)},
		Position: func(q Queue) string { return q.Name.name },
		Parse:    ParseQueueName,
		Select: func(after QueueName, size int) ([]Queue, bool, error) {
			queues, err := selectQueues(ctx, s.db, after.name, size+1)
			n := pageLength(queues, size)
			return queues[:n], n < len(queues), err
		},
	}
	return list.Page(size, token)
}

// pageLength returns how many of the queues fit in a page. Only their bindings and pushes can be large.
func pageLength(queues []Queue, size int) int {
	bytes := 0
	for n, q := range queues {
		for _, b := range q.Bindings {
			bytes += bindingCost + len(b.Topic) + len(b.Pattern)
		}
		bytes += q.Push.size()
		if n == size || n > 0 && bytes > maxPageBytes {
			return n
		}
	}
	return len(queues)
}

// UpdateQueue changes a queue's policy, with immediate effect for all messages in it. change is called with the current
// policy; fields that it sets to zero are replaced with those of DefaultPolicy. Errors: NotFound; InvalidArgument as in
// CreateQueue; FailedPrecondition for another MessageTTL or MaxLength; Unavailable if the broker is away: then the policy
// is changed, and the broker gets the bindings once it is back.
func (s *Service) UpdateQueue(ctx context.Context, name QueueName, change func(*Policy)) (q Queue, err error) {
	i := newIntent(name)
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if err := lockForChange(ctx, tx, name); err != nil {
			return err
		}
		before, err := selectQueue(ctx, tx, name)
		if err != nil {
			return err
		}
		policy, secret, err := s.update(ctx, tx, before, change)
		if err != nil {
			return err
		}
		if q, err = selectQueue(ctx, tx, name); err != nil {
			return err
		}
		q.Push = policy.Push.shown(secret)
		if slices.Equal(before.Bindings, q.Bindings) {
			return nil
		}
		for _, b := range before.Bindings {
			if !slices.Contains(q.Bindings, b) {
				i.ended = append(i.ended, b)
			}
		}
		return insertIntent(ctx, tx, i, intentLease)
	})
	if err != nil || len(q.Bindings)+len(i.ended) == 0 {
		return q, err
	}
	return q, s.follow(ctx, i)
}

// update writes what a change makes of the policy of a queue, which the transaction has locked. secret is that of the push if the change
// has set it.
func (s *Service) update(ctx context.Context, tx *pg.Tx, before Queue, change func(*Policy)) (after Policy, secret string, err error) {
	of := tenantQueue{auth.TenantOf(ctx), before.Name}
	sealed, err := selectPush(ctx, tx, of)
	if err != nil {
		return after, "", err
	}
	before.Push = s.openPush(of.tenant, sealed)
	if after, err = changed(before.Policy, change); err != nil {
		return after, "", err
	}
	if err := s.preparePush(before.Push, after.Push, time.Now()); err != nil {
		return after, "", err
	}
	if err := updatePolicy(ctx, tx, before.Name, after); err != nil {
		return after, "", err
	}
	if reflect.DeepEqual(before.Push, after.Push) {
		return after, "", nil
	}
	tx.AfterCommit(func() { s.notifier.Notify(channel, newPolicies) })
	return after, pushSecret(before.Push, after.Push), updatePush(ctx, tx, of, s.sealPush(of.tenant, after.Push))
}

func changed(before Policy, change func(*Policy)) (Policy, error) {
	after := before
	after.Bindings, after.Push = slices.Clone(before.Bindings), before.Push.clone()
	change(&after)
	const fixed = "%s: fixed when the queue is created, at %v; create another queue, or delete this one and create it again"
	if after.MessageTTL != before.MessageTTL {
		return Policy{}, errs.New(errs.FailedPrecondition, fixed, "message_ttl", before.MessageTTL)
	}
	if after.MaxLength != before.MaxLength {
		return Policy{}, errs.New(errs.FailedPrecondition, fixed, "max_length", before.MaxLength)
	}
	after = after.complete()
	return after, errors.Join(after.check(), checkPatterns(after.Bindings, before.Bindings))
}

// checkPatterns refuses new bindings with a pattern that is too expensive to match. Those that the release before allowed may
// stay, and have no effect (see effective).
func checkPatterns(bindings, before []Binding) error {
	for _, b := range bindings {
		if broker.CheckPattern(b.Pattern) != nil && !slices.Contains(before, b) {
			return errs.New(errs.InvalidArgument, `bindings: the pattern %q has more than %d "#"; at most %d are allowed`,
				b.Pattern, broker.MaxHashes, broker.MaxHashes)
		}
	}
	return nil
}

func (b Binding) onBroker(tenant string) broker.Binding {
	return broker.Binding{Topic: topicOnBroker(tenant, b.Topic), Pattern: b.Pattern}
}

// effective returns the binding as the broker has it. ok is false if it has too many "#" even in its simplest form: such a
// binding of the release before has no effect.
func (b Binding) effective() (_ Binding, ok bool) {
	if broker.CheckPattern(b.Pattern) == nil {
		return b, true
	}
	b.Pattern = broker.Simplified(b.Pattern)
	return b, broker.CheckPattern(b.Pattern) == nil
}

// effective returns the bindings that the broker has of q, and those that it must not have.
func (q Queue) effective() (wanted, unwanted []Binding) {
	for _, b := range q.Bindings {
		e, ok := b.effective()
		if ok {
			wanted = append(wanted, e)
		}
		if e != b || !ok {
			unwanted = append(unwanted, b)
		}
	}
	return wanted, unwanted
}

// PauseQueue stops deliveries from a queue, in all processes and within a second. Publishing goes on. Errors: NotFound.
func (s *Service) PauseQueue(ctx context.Context, name QueueName) (Queue, error) {
	return s.setPaused(ctx, name, true)
}

// ResumeQueue resumes deliveries from a queue. Errors: NotFound.
func (s *Service) ResumeQueue(ctx context.Context, name QueueName) (Queue, error) {
	return s.setPaused(ctx, name, false)
}

func (s *Service) setPaused(ctx context.Context, name QueueName, paused bool) (Queue, error) {
	q, err := updatePaused(ctx, s.db, name, paused)
	if err == nil {
		s.notifier.Notify(channel, newPolicies)
		_ = s.readPaused(ctx, tenantQueue{auth.TenantOf(ctx), name}) // Here it is known at once.
	}
	return q, err
}

// PurgeQueue removes the messages in a queue and the waiting messages for it, and returns their number. It frees the
// idempotency keys of all that was published to the queue until then. Outstanding messages and dead letters stay. Errors:
// NotFound; Unavailable if the broker is away, and then some messages may be removed.
func (s *Service) PurgeQueue(ctx context.Context, name QueueName) (purged int64, err error) {
	var began time.Time
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		exists, err := lockQueue(ctx, tx, name)
		if err != nil {
			return err
		}
		if !exists {
			return errNoQueue(name)
		}
		// The rows come first: this waits for rows that a relay has claimed, and their messages are in the queue afterwards.
		purged, began, err = deleteWaitingOf(ctx, tx, name)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer s.stats.forget(tenantQueue{auth.TenantOf(ctx), name})
	ready, err := s.broker.Purge(ctx, name.onBroker(auth.TenantOf(ctx)))
	if errors.Is(err, broker.ErrNoQueue) { // The broker came back empty.
		err = nil
	}
	if err == nil {
		err = freeKeys(ctx, s.db, name, began)
	}
	return purged + ready, err
}

// DeleteQueue deletes a queue with all its messages, including waiting messages and dead letters. The queue is gone at
// once. If it has many messages, the relays remove them, and until that is done no queue of that name can be created.
// Errors: NotFound; Unavailable if the broker is away: then the queue is deleted, and the broker's is removed once it is
// back.
func (s *Service) DeleteQueue(ctx context.Context, name QueueName) error {
	i := newIntent(name)
	i.remove, i.again = true, true
	err := s.db.InTx(ctx, func(tx *pg.Tx) error {
		q, err := selectQueue(ctx, tx, name)
		if err != nil {
			return err
		}
		i.ended = q.Bindings
		// The row of the queue comes first: whoever inserts other rows for it holds a lock on it, and this waits for them.
		deleted, err := deleteQueue(ctx, tx, name)
		if err != nil {
			return err
		}
		if !deleted {
			return errNoQueue(name)
		}
		tx.AfterCommit(func() { s.notifier.Notify(channel, newPolicies) })
		return insertIntent(ctx, tx, i, intentLease)
	})
	if err != nil {
		return err
	}
	return s.follow(ctx, i)
}
