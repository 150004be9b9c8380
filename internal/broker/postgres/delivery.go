package postgres

import (
	"context"
	"sync/atomic"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
)

// delivery is one claim of one message. It is the Settler of the broker.Delivery created from it.
type delivery struct {
	sub      *subscription
	queue    int64
	seq      int64
	lease    string
	message  broker.Message
	bytes    int64
	attempt  int  // the attempt that it is once it is received
	received bool // guarded by sub.mu until the delivery is dropped
	settled  atomic.Bool
}

func (*delivery) size() int { return 0 }

func (*delivery) owner() string { return "" }

// Ack implements broker.Settler. It returns errs.Aborted if the delivery was no longer outstanding.
func (d *delivery) Ack(ctx context.Context) error {
	if d.settled.Swap(true) {
		return nil
	}
	defer d.release()
	ctx, cancel := bounded(ctx)
	defer cancel()
	return d.sub.b.acks.do(ctx, d.sub.b.ended, d)[0]
}

// Nack implements broker.Settler.
func (d *delivery) Nack(ctx context.Context) error {
	if d.settled.Swap(true) {
		return nil
	}
	defer d.release()
	d.sub.leave(d.seq, d.sub.b.hasOthers(d.sub))
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := returnMessages(ctx, d.sub.b.db, []*delivery{d}); err != nil {
		return away(err)
	}
	d.sub.b.wakeBeside(d.sub)
	d.sub.b.notify(d.queue)
	return nil
}

// release frees the credit. If settling failed, nobody renews the lease any more, and the message is delivered again.
func (d *delivery) release() {
	d.sub.mu.Lock()
	defer d.sub.mu.Unlock()
	d.sub.letGo(d)
	loop.Signal(d.sub.freed)
}

// ack deletes a batch and answers each of its callers.
func (b *Broker) ack(ctx context.Context, batch []call[*delivery]) {
	deliveries := make([]*delivery, len(batch))
	for i, c := range batch {
		deliveries[i] = c.value
	}
	deleted, err := deleteMessages(ctx, b.db, deliveries)
	for _, c := range batch {
		if err == nil && !deleted[c.value.seq] {
			c.done <- errs.New(errs.Aborted, "the delivery is not outstanding any more; the message may be delivered again")
		} else {
			c.done <- away(err)
		}
	}
}
