package message

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/observe"
)

// Back-off of what cannot reach its backends: it must be back soon after they are.
const (
	minReconnect = time.Second
	maxReconnect = 4 * time.Second
)

// Worker runs handlers, and the service's maintenance.
type Worker struct {
	service  *Service
	handlers []Handler
	lines    *zap.Logger
	drain    time.Duration
}

// NewWorker makes a worker. lines is for the one line of a message; there may be many, so it should be buffered. When the
// worker is told to stop, handlers have drain to finish what they hold.
func NewWorker(service *Service, handlers []Handler, lines *zap.Logger, drain time.Duration) *Worker {
	return &Worker{service: service, handlers: handlers, lines: lines, drain: drain}
}

// EnsureQueues makes the queues of all handlers, and tries again for as long as ctx lives.
func (w *Worker) EnsureQueues(ctx context.Context) error {
	for _, h := range w.handlers {
		for attempt := 1; ; attempt++ {
			err := w.service.EnsureQueue(ctx, h.queue)
			if err == nil {
				break
			}
			if !w.retry(ctx, "queue cannot be used, trying again", h.queue, attempt, err) {
				return nil
			}
		}
	}
	return nil
}

// Run consumes until ctx ends, then takes no more, finishes what it holds and returns nil.
func (w *Worker) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.service.maintain(ctx) })
	for _, h := range w.handlers {
		group.Go(func() error {
			w.serve(ctx, h)
			return nil
		})
	}
	return group.Wait()
}

// serve consumes from the queue of a handler until ctx ends, however often it is lost. Its credit is what it can handle at a
// time: a message that waited here behind a slow one could be handled elsewhere, and the end of the process would count as an
// attempt of a message that no handler has seen.
func (w *Worker) serve(ctx context.Context, h Handler) {
	for attempt := 1; ; attempt++ {
		src, err := w.service.open(ctx, ctx, h.queue, h.concurrency)
		if err == nil {
			attempt = 1
			err = w.consume(ctx, h, src)
		}
		if !w.retry(ctx, "queue cannot be used, trying again", h.queue, attempt, err) {
			return
		}
	}
}

// consume handles messages until ctx ends or the queue is gone. Its return value says why.
func (w *Worker) consume(ctx context.Context, h Handler, src *source) error {
	defer src.Close()
	// Handlers outlive ctx, so that they finish; work ends when they may not any longer.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(w.drain, stop) })()

	count := w.service.rates.of(h.queue)
	var group errgroup.Group
	var receiving sync.Mutex
	for range h.concurrency {
		group.Go(func() error {
			for {
				receiving.Lock()
				d, err := src.Receive()
				receiving.Unlock()
				if err != nil {
					return err
				}
				count.delivered.Add(1)
				if w.handle(work, h, d) {
					count.acknowledged.Add(1)
				}
			}
		})
	}
	return group.Wait()
}

// handle is what stands around every handler: recover, trace, the handler, the log line, and the end of the delivery. It
// says whether the message was handled.
func (w *Worker) handle(ctx context.Context, h Handler, d broker.Delivery) bool {
	m := fromBroker(d)
	if d.Attempt > 1 && w.setAside(ctx, h, d, m) {
		return false
	}
	line := &line{queue: h.queue, message: m, start: time.Now()}
	err := w.call(ctx, h, m)
	if err == nil {
		w.lines.Info("message handled", zap.Inline(line))
		return w.settle(d.Ack, d.ID)
	}
	f := &failure{message: m, reason: err.Error(), permanent: !errs.Retryable(err)}
	if ctx.Err() != nil || !w.move(ctx, h.queue, f) { // The process has no more time for it, which is not the message's fault.
		w.lines.Warn("message given back", zap.Inline(line), zap.Error(err))
		w.settle(d.Nack, d.ID)
		return false
	}
	line.failure = f
	w.lines.Error("message failed", zap.Inline(line))
	w.settle(d.Ack, d.ID)
	return false
}

// setAside has a message wait that was delivered before and not settled: the process died with it, say. That attempt
// counts as failed, and if it is the message that kills, it must not do so again at once. It is false while Postgres is
// away; then the message is handled.
func (w *Worker) setAside(ctx context.Context, h Handler, d broker.Delivery, m Message) bool {
	f := cutShort(m)
	if w.service.fail(ctx, h.queue, f) != nil {
		return false
	}
	w.lines.Warn("message came again", zap.Inline(&line{queue: h.queue, message: m, failure: f}))
	w.settle(d.Ack, d.ID)
	return true
}

// move moves a message on whose attempt failed. While Postgres is away it keeps the message's place, for all others would
// fare no better. It is false when ctx has ended.
func (w *Worker) move(ctx context.Context, queue QueueName, f *failure) bool {
	for attempt := 1; ; attempt++ {
		err := w.service.fail(ctx, queue, f)
		if err == nil {
			return true
		}
		if !w.retry(ctx, "failed message cannot be moved, trying again", queue, attempt, err) {
			return false
		}
	}
}

// settle needs no deadline: brokers give up by themselves.
func (w *Worker) settle(how func(context.Context) error, id string) bool {
	err := how(context.Background())
	if err != nil {
		w.service.log.Warn("settling failed, the message will come again", zap.String("id", id), zap.Error(err))
	}
	return err == nil
}

// call runs the handler in its context.
func (w *Worker) call(ctx context.Context, h Handler, m Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			w.service.log.Error("handler panicked", zap.Stringer("queue", h.queue), zap.String("id", m.ID), zap.Error(err),
				zap.ByteString("stack", debug.Stack()))
		}
	}()
	ctx = observe.WithTrace(ctx, m.headers["traceparent"], m.headers["tracestate"])
	ctx = context.WithValue(ctx, messageKey{}, m)
	if h.handleTx == nil {
		return h.handle(ctx, m)
	}
	return w.service.db.InTx(ctx, func(tx pgx.Tx) error {
		first, err := insertHandled(ctx, tx, h.consumer, m.ID)
		if err != nil || !first {
			return err
		}
		return h.handleTx(ctx, tx, m)
	})
}

// retry waits before the next attempt at what failed. It is false when ctx has ended.
func (w *Worker) retry(ctx context.Context, what string, queue QueueName, attempt int, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	delay := backoff(attempt, minReconnect, maxReconnect)
	w.service.log.Warn(what, zap.Stringer("queue", queue), zap.Duration("retry_in_ms", delay), zap.Error(err))
	return pause(ctx, delay)
}

// line is what the log says of one delivery.
type line struct {
	queue   QueueName
	message Message
	start   time.Time // of the handler; zero where there is none
	failure *failure  // nil where the attempt did not fail
}

// MarshalLogObject gives the fields of the line.
func (l *line) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("queue", l.queue.name)
	line.AddString("id", l.message.ID)
	line.AddInt64("attempt", int64(l.message.Attempt))
	if !l.start.IsZero() {
		line.AddDuration("duration_ms", time.Since(l.start))
	}
	if parent := l.message.headers["traceparent"]; len(parent) >= 35 {
		line.AddString("trace_id", parent[3:35])
	}
	if f := l.failure; f != nil {
		line.AddString("reason", f.reason)
		if f.dead {
			line.AddBool("dead_letter", true)
		} else {
			line.AddDuration("retry_in_ms", f.due)
		}
	}
	return nil
}
