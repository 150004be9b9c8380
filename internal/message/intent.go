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
	// intentLease is how long who changes a queue has for the broker to follow, before another process takes over.
	intentLease = 15 * time.Second
	// intentLimit ends an attempt within the lease, so that two processes are hardly ever at the same queue.
	intentLimit = 10 * time.Second
	// intentsAtOnce bounds how many one process takes over in one go.
	intentsAtOnce = 20

	intentPoll = 5 * time.Second // finds intents that no notification told of

	intentMinBackoff = time.Second
	intentMaxBackoff = time.Minute
)

// intent is that the broker follows the table in what it has of a queue. It is committed with the change to the table; the
// broker is called afterwards, while no connection and no lock is held. A process that dies between the two leaves the rest to
// another one, and whoever comes too late finds that it was all done, since the broker gets what the table says by then.
type intent struct {
	queue    QueueName
	token    string
	failures int
	remove   bool      // what the broker has by the name is of a queue that was deleted; until then the name is not free
	again    bool      // to look once more later: who saw the queue before it was deleted may declare it yet
	ended    []Binding // that the table had until now
}

func newIntent(queue QueueName) intent {
	return intent{queue: queue, token: uuid.NewString()}
}

// follow has the broker do as the table says, and forgets the intent.
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
	// It is done, so a caller that has gone away does not have it done again.
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
	tenant := auth.TenantOf(ctx)
	name := i.queue.onBroker(tenant)
	q, err := selectQueue(ctx, s.db, i.queue)
	if errs.Is(err, errs.NotFound) {
		// A process that was stopped until now must not remove a queue that was created meanwhile.
		if deadline, _ := ctx.Deadline(); time.Now().After(deadline) {
			return context.DeadlineExceeded
		}
		return s.broker.Delete(ctx, name)
	}
	if err != nil {
		return err
	}
	if err := s.declareOnBroker(ctx, q); err != nil {
		return err
	}
	for _, b := range i.ended {
		if slices.Contains(q.Bindings, b) {
			continue
		}
		if err := s.broker.Unbind(ctx, name, b.onBroker(tenant)); err != nil {
			return err
		}
	}
	return nil
}

// newIntents returns what takes over the intents whose processes did not come to it.
func (s *Service) newIntents() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "changes of queues", Channel: channel, Payload: newIntents, Lanes: 1, Poll: intentPoll, Log: s.log,
		Late: func(ctx context.Context) (time.Duration, error) { return selectIntentsLate(ctx, s.system) },
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

// undo forgets a queue that the broker did not take. Unless that is certain, what it may have is removed later.
func (s *Service) undo(ctx context.Context, i intent, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	refused := errs.Is(why, errs.FailedPrecondition) || errs.Is(why, errs.InvalidArgument)
	err := s.db.InTx(ctx, func(tx *pg.Tx) error {
		mine, err := lockIntent(ctx, tx, i)
		if err != nil || !mine {
			return err // Somebody has changed the queue meanwhile, so it is theirs.
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
