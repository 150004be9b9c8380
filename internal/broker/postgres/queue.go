package postgres

import (
	"context"
	"errors"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	purgeBatch  = 10_000
	expireBatch = 1_000
)

// Declare implements broker.Broker. The part of the name before the first dot is the queue's tenant.
func (b *Broker) Declare(ctx context.Context, queue broker.Queue) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	queue.MessageTTL = queue.MessageTTL.Truncate(time.Millisecond)
	if err := insertQueue(ctx, b.db, queue); err != nil {
		return away(err)
	}
	there, err := selectQueue(ctx, b.db, queue.Name)
	if errors.Is(err, broker.ErrNoQueue) {
		return nil // The queue existed, and somebody has deleted it since.
	}
	if err == nil && there != queue {
		return errs.New(errs.FailedPrecondition,
			"the queue has a message_ttl of %v and a max_length of %d (0 is none), which are fixed when it is made",
			there.MessageTTL, there.MaxLength)
	}
	return away(err)
}

// Bind implements broker.Broker.
func (b *Broker) Bind(ctx context.Context, queue string, bindings ...broker.Binding) error {
	for _, binding := range bindings {
		if err := broker.CheckPattern(binding.Pattern); err != nil {
			return err
		}
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return away(insertBindings(ctx, b.db, queue, bindings))
}

// Unbind implements broker.Broker.
func (b *Broker) Unbind(ctx context.Context, queue string, bindings ...broker.Binding) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return away(deleteBindings(ctx, b.db, queue, bindings))
}

// Delete implements broker.Broker. It purges the queue first, since deleting all messages may be too much for one
// transaction.
func (b *Broker) Delete(ctx context.Context, queue string) error {
	if _, err := b.Purge(ctx, queue); err != nil && !errors.Is(err, broker.ErrNoQueue) {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	id, err := deleteQueue(ctx, b.db, queue)
	if errors.Is(err, broker.ErrNoQueue) {
		return nil
	}
	if err == nil {
		b.notify(id)
	}
	return away(err)
}

// Purge implements broker.Broker. It works in batches, each within the limit of one call, and leaves messages that are
// published after it began. An error means that some of the messages may be gone.
func (b *Broker) Purge(ctx context.Context, queue string) (int64, error) {
	id, last, err := b.findLast(ctx, queue)
	var after, total int64
	for more := true; err == nil && more; {
		var n int64
		after, n, more, err = b.purge(ctx, id, after, last)
		total += n
	}
	return total, err
}

func (b *Broker) findLast(ctx context.Context, queue string) (id, last int64, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	id, err = findQueue(ctx, b.db, queue)
	if err == nil {
		last, err = lastMessage(ctx, b.db, id)
	}
	return id, last, away(err)
}

// purge deletes one batch. more means that there may be another batch after seq.
func (b *Broker) purge(ctx context.Context, queue, after, last int64) (seq, waiting int64, more bool, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	seq, deleted, waiting, err := purgeMessages(ctx, b.db, queue, after, last, purgeBatch)
	return seq, waiting, deleted == purgeBatch, away(err)
}

// Ready implements broker.Broker.
func (b *Broker) Ready(ctx context.Context, queue string) (int64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	n, err := countReady(ctx, b.db, queue)
	return n, away(err)
}

// Generation implements broker.Broker. It never changes: a database that comes back has everything that was committed.
func (*Broker) Generation() uint64 { return 1 }

// expire deletes the expired messages of all queues.
func (b *Broker) expire(ctx context.Context) error {
	for {
		n, err := b.deleteExpired(ctx)
		if err != nil || n < expireBatch {
			return err
		}
	}
}

func (b *Broker) deleteExpired(ctx context.Context) (int64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return deleteExpired(ctx, b.db, expireBatch)
}
