package message

import (
	"context"
	"time"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// queuesAtOnce is how many queues one call of RemoveTenant deletes.
const queuesAtOnce = 10

// clearFor bounds one run of clear; then it is the turn of other queues.
const clearFor = time.Second

// clear removes, in small transactions and for a limited time, the rows that belong to a deleted queue. done reports
// whether nothing is left. While rows are left the name is not free, so none of them belongs to a newer queue. A process
// that comes so late that another one has taken over the intent notices this before it removes anything.
func (s *Service) clear(ctx context.Context, i intent) (done bool, err error) {
	for end := time.Now().Add(clearFor); !done && err == nil && time.Now().Before(end); {
		err = s.db.InTx(ctx, func(tx *pg.Tx) error {
			mine, err := lockIntent(ctx, tx, i)
			if err != nil || !mine {
				done = true // Another process has taken over.
				return err
			}
			deleted, err := deleteBeside(ctx, tx, i.queue)
			done = deleted == 0
			return err
		})
	}
	return done, err
}

// RemoveTenant removes what the broker has of a tenant that is being deleted, see tenant.Deletion. It deletes queues that calls which
// were still running have created since, and waits until each queue that was deleted was looked at once more: what another
// process had read of it, or was still publishing to it, came to an end before that, so a tenant that is made again has nothing of it.
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
	left, err := hasIntents(ctx, s.db)
	return !left, err
}
