package postgres

import "context"

const (
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// batcher lets many callers share one statement: while one batch is being processed, the next one is collected.
type batcher[T sizer] struct {
	calls chan []call[T] // never more than a batch's worth at once
	// work answers every call of its batch.
	work func(ctx context.Context, batch []call[T])
}

type sizer interface{ size() int }

type call[T any] struct {
	value T
	done  chan error
}

func newBatcher[T sizer](work func(context.Context, []call[T])) *batcher[T] {
	return &batcher[T]{calls: make(chan []call[T]), work: work}
}

// do submits values, in order, and waits for the answer to each.
func (b *batcher[T]) do(ctx context.Context, ended <-chan struct{}, values ...T) []error {
	answers := make([]error, len(values))
	calls := make([]call[T], len(values))
	for i, v := range values {
		calls[i] = call[T]{value: v, done: make(chan error, 1)}
	}
	taken := 0
	err := ctx.Err()
	for err == nil && taken < len(calls) {
		part := worth(calls[taken:])
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
		return away(ctx.Err())
	}
}

// worth returns the first calls that fill a batch, at least one.
func worth[T sizer](calls []call[T]) []call[T] {
	size := 0
	for i, c := range calls {
		if full(i, size) {
			return calls[:i]
		}
		size += c.value.size()
	}
	return calls
}

func full(calls, size int) bool { return calls >= maxBatch || size >= maxBatchBytes }

// run processes batches until ctx ends. A call that was accepted is always answered.
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

// gather adds the calls that are already waiting to the first ones. A batch has less than twice its limits.
func (b *batcher[T]) gather(batch []call[T]) []call[T] {
	size := sizeOf(batch)
	for !full(len(batch), size) {
		select {
		case calls := <-b.calls:
			batch, size = append(batch, calls...), size+sizeOf(calls)
		default:
			return batch
		}
	}
	return batch
}

func sizeOf[T sizer](calls []call[T]) (size int) {
	for _, c := range calls {
		size += c.value.size()
	}
	return size
}
