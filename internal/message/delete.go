package message

import (
	"context"
	"time"

	"plinth/internal/pg"
)

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
