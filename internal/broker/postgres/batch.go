package postgres

import (
	"context"
)

const (
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// batcher lets many callers share one statement: while one batch is at work, the next one gathers.
type batcher[T sizer] struct {
	calls chan call[T]
	// work answers every call of its batch.
	work func(ctx context.Context, batch []call[T])
}

type sizer interface{ size() int }

type call[T any] struct {
	value T
	done  chan error
}

func newBatcher[T sizer](work func(context.Context, []call[T])) *batcher[T] {
	return &batcher[T]{calls: make(chan call[T]), work: work}
}

// do hands over a value and waits for its answer.
func (b *batcher[T]) do(ctx context.Context, ended <-chan struct{}, value T) error {
	if err := ctx.Err(); err != nil {
		return away(err)
	}
	c := call[T]{value: value, done: make(chan error, 1)}
	select {
	case b.calls <- c:
	case <-ended:
		return errEnded()
	case <-ctx.Done():
		return away(ctx.Err())
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return away(ctx.Err())
	}
}

// run works until ctx ends. A call that was taken is always answered.
func (b *batcher[T]) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-b.calls:
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
			b.work(ctx, b.gather(first))
			cancel()
		}
	}
}

// gather adds the calls that wait already to the first one.
func (b *batcher[T]) gather(first call[T]) []call[T] {
	batch, size := []call[T]{first}, first.value.size()
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case c := <-b.calls:
			batch, size = append(batch, c), size+c.value.size()
		default:
			return batch
		}
	}
	return batch
}
