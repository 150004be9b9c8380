package message

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
)

// Back-off of a message whose handler failed, and of a worker that cannot reach its queue: that one must be back soon
// after its backends are.
const (
	minBackoff    = time.Second
	maxBackoff    = time.Minute
	queueAttempts = 3 // after so many, the back-off of a queue no longer grows
)

// Worker runs handlers.
type Worker struct {
	service  *Service
	handlers []Handler
	log      *zap.Logger
	drain    time.Duration
}

// NewWorker makes a worker. When it is told to stop, handlers have drain to finish what they hold.
func NewWorker(service *Service, handlers []Handler, log *zap.Logger, drain time.Duration) *Worker {
	return &Worker{service: service, handlers: handlers, log: log, drain: drain}
}

// EnsureQueues makes the queues of all handlers, and tries again for as long as ctx lives.
func (w *Worker) EnsureQueues(ctx context.Context) error {
	for _, h := range w.handlers {
		for attempt := 1; ; attempt++ {
			err := w.service.EnsureQueue(ctx, h.queue)
			if err == nil {
				break
			}
			if !w.retry(ctx, h.queue, attempt, err) {
				return nil
			}
		}
	}
	return nil
}

// Run consumes until ctx ends, then takes no more, finishes what it holds and returns nil.
func (w *Worker) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, h := range w.handlers {
		group.Go(func() error {
			for attempt := 1; ; attempt++ {
				sub, err := w.subscribe(ctx, h)
				if err == nil {
					attempt = 1
					err = w.consume(ctx, h, sub)
				}
				if !w.retry(ctx, h.queue, attempt, err) {
					return nil
				}
			}
		})
	}
	return group.Wait()
}

// subscribe takes twice as many messages as can be handled at a time, so that the next one is always there.
func (w *Worker) subscribe(ctx context.Context, h Handler) (sub broker.Subscription, err error) {
	err = known(ctx, h.queue, w.service.declare, func() (err error) {
		sub, err = w.service.broker.Subscribe(ctx, h.queue.onBroker(), 2*h.concurrency)
		return err
	})
	return sub, err
}

// consume handles messages until ctx ends or the queue is gone. Its return value says why.
func (w *Worker) consume(ctx context.Context, h Handler, sub broker.Subscription) error {
	defer sub.Close()
	// Handlers outlive ctx, so that they finish; work ends when they may not any longer.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(w.drain, stop) })()

	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, h.concurrency)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		d, err := sub.Receive(ctx)
		if err != nil {
			return err
		}
		running.Go(func() {
			defer func() { <-places }()
			w.handle(work, h, d)
		})
	}
}

// handle is what stands around every handler: recover, the handler, the log line, and the end of the delivery.
func (w *Worker) handle(ctx context.Context, h Handler, d broker.Delivery) {
	start := time.Now()
	err := call(ctx, h, fromBroker(d))
	fields := []zap.Field{
		zap.Stringer("queue", h.queue), zap.String("id", d.ID), zap.Int("attempt", d.Attempt),
		zap.Duration("duration_ms", time.Since(start)),
	}
	if err != nil {
		delay := backoff(d.Attempt)
		w.log.Error("message failed", append(fields, zap.Duration("retry_in_ms", delay), zap.Error(err))...)
		time.AfterFunc(delay, func() { w.settle(d.Nack, d.ID) })
		return
	}
	w.log.Info("message handled", fields...)
	w.settle(d.Ack, d.ID)
}

func (w *Worker) settle(how func(context.Context) error, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := how(ctx); err != nil {
		w.log.Warn("settling failed, the message will come again", zap.String("id", id), zap.Error(err))
	}
}

func call(ctx context.Context, h Handler, m Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h.handle(ctx, m)
}

// retry waits before the next attempt to reach a queue. It is false when ctx has ended.
func (w *Worker) retry(ctx context.Context, queue QueueName, attempt int, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	delay := backoff(min(attempt, queueAttempts))
	w.log.Warn("queue cannot be used, trying again", zap.Stringer("queue", queue), zap.Duration("retry_in_ms", delay), zap.Error(err))
	select {
	case <-time.After(delay):
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff doubles with each attempt from minBackoff to maxBackoff, less a random part of up to a half, so that what failed together does not
// come again together.
func backoff(attempt int) time.Duration {
	d := maxBackoff
	if shift := attempt - 1; shift < 6 {
		d = min(minBackoff<<shift, maxBackoff)
	}
	return d - rand.N(d/2)
}
