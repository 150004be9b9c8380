package postgres

import (
	"context"

	"plinth/internal/broker"
)

const (
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// batcher lets many callers share one statement: while one batch is being processed, the next one is collected. Owners take
// turns in it.
type batcher[T sizer] struct {
	most  int            // calls of a batch
	calls chan []call[T] // never more than a batch's worth at once
	turns broker.Turns[call[T]]
	// work answers every call of its batch.
	work func(ctx context.Context, batch []call[T])
}

type sizer interface {
	size() int
	owner() string
}

type call[T any] struct {
	ctx   context.Context // what is not begun before it ends is not done
	value T
	done  chan error
}

func newBatcher[T sizer](most int, work func(context.Context, []call[T])) *batcher[T] {
	return &batcher[T]{most: most, calls: make(chan []call[T]), work: work}
}

// do submits values, in order, and waits for the answer to each.
func (b *batcher[T]) do(ctx context.Context, ended <-chan struct{}, values ...T) []error {
	answers := make([]error, len(values))
	calls := make([]call[T], len(values))
	for i, v := range values {
		calls[i] = call[T]{ctx: ctx, value: v, done: make(chan error, 1)}
	}
	taken := 0
	err := ctx.Err()
	for err == nil && taken < len(calls) {
		part := b.worth(calls[taken:])
		select {
		case b.calls <- part:
			taken += len(part)
		case <-ended:
			err = errEnded()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	for i := range answers {
		answers[i] = away(err)
		if i < taken {
			answers[i] = calls[i].answer(ctx)
		}
	}
	return answers
}

func (c call[T]) answer(ctx context.Context) error {
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return &broker.InDoubt{Err: away(ctx.Err()), Outcome: c.done}
	}
}

// worth returns the first calls that fill a batch, at least one.
func (b *batcher[T]) worth(calls []call[T]) []call[T] {
	size := 0
	for i, c := range calls {
		if b.full(i, size) {
			return calls[:i]
		}
		size += c.value.size()
	}
	return calls
}

func (b *batcher[T]) full(calls, size int) bool { return calls >= b.most || size >= maxBatchBytes }

// run processes batches until ctx ends. A call that was accepted is always answered.
func (b *batcher[T]) run(ctx context.Context) {
	for {
		if b.turns.IsEmpty() {
			select {
			case <-ctx.Done():
				return
			case calls := <-b.calls:
				b.add(calls)
			}
		}
		working, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
		if batch := b.gather(); len(batch) > 0 {
			b.work(working, batch)
		}
		cancel()
	}
}

func (b *batcher[T]) add(calls []call[T]) {
	for _, c := range calls {
		b.turns.Add(c.value.owner(), c)
	}
}

// gather returns the next batch. It has less than twice its limits.
func (b *batcher[T]) gather() (batch []call[T]) {
	for accepting := true; accepting; {
		select {
		case calls := <-b.calls:
			b.add(calls)
		default:
			accepting = false
		}
	}
	for size := 0; !b.full(len(batch), size); {
		c, ok := b.turns.Next()
		if !ok {
			return batch
		}
		if err := c.ctx.Err(); err != nil {
			c.done <- away(err) // Its caller has left.
			continue
		}
		batch, size = append(batch, c), size+c.value.size()
	}
	return batch
}
