package message

import (
	"context"
	"time"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// queuesAtOnce is how many queues of a tenant that is being deleted are deleted in one go.
const queuesAtOnce = 10

// clearFor is how long one go at what a deleted queue has left takes; then other queues have their turn.
const clearFor = time.Second

// clear removes what stood beside the row of a queue that was deleted, in small transactions, for a while. done reports whether
// nothing is left. While there is, the name is not free, so none of it is a newer queue's; a process that is so late that
// another one has the intent finds that before it removes anything.
func (s *Service) clear(ctx context.Context, i intent) (done bool, err error) {
	for end := time.Now().Add(clearFor); !done && err == nil && time.Now().Before(end); {
		err = s.db.InTx(ctx, func(tx *pg.Tx) error {
			mine, err := lockIntent(ctx, tx, i)
			if err != nil || !mine {
				done = true // For this process.
				return err
			}
			deleted, err := deleteBeside(ctx, tx, i.queue)
			done = deleted == 0
			return err
		})
	}
	return done, err
}

// RemoveTenant removes what the broker has of a tenant that is being deleted, see tenant.Deletion: queues that went before are
// waited for, and those are deleted that calls which were on their way have created since.
func (s *Service) RemoveTenant(ctx context.Context) (done bool, err error) {
	queues, err := selectQueues(ctx, s.db, "", queuesAtOnce)
	if err != nil {
		return false, err
	}
	for _, q := range queues {
		if err := s.DeleteQueue(ctx, q.Name); err != nil && !errs.Is(err, errs.NotFound) {
			return false, err
		}
	}
	if len(queues) == queuesAtOnce {
		return false, nil
	}
	left, err := isRemoving(ctx, s.db)
	return !left, err
}
