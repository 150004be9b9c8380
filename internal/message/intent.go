package message

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	// intentLease is how long a process that changed a queue may take to apply the change to the broker. After that another
	// process takes over.
	intentLease = 15 * time.Second
	// intentLimit ends an attempt within the lease, so that two processes rarely work on the same queue.
	intentLimit = 10 * time.Second
	// intentsAtOnce is how many intents one process takes over at a time.
	intentsAtOnce = 20

	intentMinBackoff = time.Second
	intentMaxBackoff = time.Minute

	reviveBatch = 1000 // messages in one statement
)

// intent records that the broker has to follow a change of a queue. It is committed together with the change to the
// table. The broker is called afterwards, while no connection and no lock is held. If a process dies in between, another
// one continues. A process that comes too late does no harm, since the broker is always brought to what the table says at
// that time.
type intent struct {
	queue    QueueName
	token    string
	failures int
	remove   bool      // the queue was deleted, and what the broker has of it must go; until then the name is not free
	again    bool      // look once more later: a process that read the queue before it was deleted may still declare it
	ended    []Binding // bindings that were removed from the table
}

func newIntent(queue QueueName) intent {
	return intent{queue: queue, token: uuid.NewString()}
}

// follow applies to the broker what the table says, and then deletes the intent.
func (s *Service) follow(ctx context.Context, i intent) error {
	acting, cancel := context.WithTimeout(ctx, intentLimit)
	defer cancel()
	if err := s.followTable(acting, i); err != nil {
		return err
	}
	done := true
	if i.remove {
		var err error
		if done, err = s.clear(acting, i); err != nil {
			return err
		}
	}
	// The work is done, so it is recorded even if the caller has gone away.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if !done {
		s.notifier.Notify(channel, newIntents)
		return continueIntent(ctx, s.db, i)
	}
	err := settleIntent(ctx, s.db, i)
	if i.remove {
		s.notifier.Notify(channel, newPolicies)
	}
	return err
}

func (s *Service) followTable(ctx context.Context, i intent) error {
	q, err := selectQueue(ctx, s.db, i.queue)
	if errs.Is(err, errs.NotFound) {
		// A process that was suspended until now must not remove a queue that was created meanwhile.
		if deadline, _ := ctx.Deadline(); time.Now().After(deadline) {
			return context.DeadlineExceeded
		}
		if err := s.unbind(ctx, i.queue, i.bound()); err != nil {
			return err
		}
		return s.broker.Delete(ctx, i.queue.onBroker(auth.TenantOf(ctx)))
	}
	if err != nil {
		return err
	}
	if err := s.declareOnBroker(ctx, q); err != nil {
		return err
	}
	if err := s.reviveUnbound(ctx, q.Bindings); err != nil {
		return err
	}
	wanted, _ := q.effective()
	return s.unbind(ctx, i.queue, slices.DeleteFunc(i.bound(), func(b Binding) bool { return slices.Contains(wanted, b) }))
}

// bound returns what has ended as the broker has it.
func (i intent) bound() []Binding {
	bound := make([]Binding, len(i.ended))
	for n, b := range i.ended {
		bound[n], _ = b.effective()
	}
	return bound
}

// newIntents returns the loop that takes over intents whose processes did not finish them.
func (s *Service) newIntents() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "changes of queues", Channel: channel, Payload: newIntents, Lanes: 1, Log: s.log,
		Late: intentsLate,
		Work: func(ctx context.Context, _ func()) (time.Duration, error) { return s.followDue(ctx) },
	})
}

func (s *Service) followDue(ctx context.Context) (next time.Duration, err error) {
	var due []tenantIntent
	if err := s.system.InTx(ctx, func(tx *pg.Tx) error {
		due, err = claimIntents(ctx, tx, intentsAtOnce, intentLease)
		return err
	}); err != nil {
		return 0, err
	}
	for _, i := range due {
		ctx := auth.AsService(ctx, i.tenant)
		failed := s.follow(ctx, i.intent)
		if failed == nil || ctx.Err() != nil {
			continue
		}
		delay := loop.Delay(i.failures+1, intentMinBackoff, intentMaxBackoff)
		s.log.Warn("the broker does not follow a change of a queue, trying again",
			zap.Inline(tenantQueue{i.tenant, i.queue}), zap.Duration("retry_in_ms", delay), zap.Error(failed))
		if err := postponeIntent(ctx, s.db, i.intent, delay); err != nil {
			return 0, err
		}
	}
	if len(due) > 0 {
		return 0, nil
	}
	late, err := selectIntentsLate(ctx, s.system)
	return max(-late, relayBusy), err
}

// undo removes the rows of a queue that could not be created on the broker. Unless the broker certainly refused it, what
// the broker may have of it is removed later.
func (s *Service) undo(ctx context.Context, i intent, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	refused := errs.Is(why, errs.FailedPrecondition) || errs.Is(why, errs.InvalidArgument)
	err := s.db.InTx(ctx, func(tx *pg.Tx) error {
		mine, err := lockIntent(ctx, tx, i)
		if err != nil || !mine {
			return err // Another call has changed the queue meanwhile, and now owns it.
		}
		if _, err := deleteQueue(ctx, tx, i.queue); err != nil {
			return err
		}
		if refused {
			return deleteIntent(ctx, tx, i)
		}
		tx.AfterCommit(func() { s.notifier.Notify(channel, newIntents) })
		i.remove = true
		return insertIntent(ctx, tx, i, 0)
	})
	return errors.Join(why, err)
}

// reviveUnbound has the messages sent at once that waited for a binding of their topic.
func (s *Service) reviveUnbound(ctx context.Context, bindings []Binding) error {
	if len(bindings) == 0 {
		return nil
	}
	topics := make([]string, len(bindings))
	for i, b := range bindings {
		topics[i] = b.Topic
	}
	for n := int64(reviveBatch); n == reviveBatch; {
		var err error
		if n, err = reviveUnbound(ctx, s.db, topics, reviveBatch); err != nil {
			return err
		}
		if n > 0 {
			s.notifier.Notify(channel, newWaiting)
		}
	}
	return nil
}
