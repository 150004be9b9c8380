package message

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// Back-off of what cannot reach its backends: it must be back soon after they are.
const (
	minReconnect = time.Second
	maxReconnect = 4 * time.Second
)

// makeWay is how long a suspect waits before it is handled, so that others which came with it are postponed by then.
const makeWay = 500 * time.Millisecond

// Worker runs handlers for every active tenant.
type Worker struct {
	service  *Service
	handlers []Handler
	lines    *zap.Logger
	drain    time.Duration
	tenants  Tenants
	opening  chan struct{} // has a token for each queue that is being subscribed to, so that calls have connections left
	present  *queueSet     // the queues of the handlers that are there
	running  chan struct{} // has a token for each message that is being handled; nil is no limit
	suspect  sync.Mutex    // held while a message is handled that may have ended a process
}

// WorkerConfig is what a worker is made of.
type WorkerConfig struct {
	Service  *Service
	Handlers []Handler
	Tenants  Tenants       // whose messages are handled
	Drain    time.Duration // that handlers have to finish what they hold, when the worker or their tenant ends
	Lines    *zap.Logger   // for the one line of each message; there may be many, so it should be buffered
}

// NewWorker returns a worker.
func NewWorker(c WorkerConfig) *Worker {
	names := make([]string, len(c.Handlers))
	for i, h := range c.Handlers {
		names[i] = h.queue.name
	}
	w := &Worker{
		service: c.Service, handlers: c.Handlers, lines: c.Lines, drain: c.Drain, tenants: c.Tenants,
		opening: make(chan struct{}, max(1, c.Service.db.MaxConns()/4)),
		present: newQueueSet(func(ctx context.Context, system *pg.System) ([]tenantQueue, error) {
			return selectNamed(ctx, system, names)
		}),
	}
	if most := c.Service.limits.Handlers; most > 0 {
		w.running = make(chan struct{}, most)
	}
	return w
}

// EnsureQueues makes the queues that all handlers have of the default tenant, and tries again for as long as ctx lives.
func (w *Worker) EnsureQueues(ctx context.Context) error {
	ctx = auth.AsService(ctx, auth.DefaultTenant)
	for _, h := range w.handlers {
		for attempt := 1; ; attempt++ {
			err := w.service.EnsureQueue(ctx, h.queue)
			if err == nil {
				break
			}
			if !w.retry(ctx, "queue cannot be used, trying again", attempt, err, zap.Inline(tenantQueue{auth.DefaultTenant, h.queue})) {
				return nil
			}
		}
	}
	return nil
}

// Run consumes until ctx ends, then takes no more, finishes what it holds and returns nil.
func (w *Worker) Run(ctx context.Context) error {
	if len(w.handlers) > 0 {
		w.service.present.Store(w.present)
		loop.Signal(w.service.heardPolicies)
	}
	w.serveTenants(ctx)
	return nil
}

// awaitQueue waits until a queue is there. It is false when ctx has ended.
func (w *Worker) awaitQueue(ctx context.Context, queue tenantQueue) bool {
	for {
		there, until := w.present.of(queue)
		if there {
			return ctx.Err() == nil
		}
		select {
		case <-until.Done():
		case <-ctx.Done():
			return false
		}
	}
}

// serve consumes from a tenant's queue of a handler until ctx ends, however often it is lost, and waits for the queue where
// there is none. Its credit is what it can handle at a time: a message that waited here behind a slow one could be handled
// elsewhere, and the end of the process would count as an attempt of a message that no handler has seen.
func (w *Worker) serve(ctx context.Context, h Handler, t *tenantWorker) {
	for attempt := 1; w.awaitQueue(ctx, tenantQueue{t.name, h.queue}); attempt++ {
		src, err := w.open(ctx, h)
		if err == nil {
			attempt = 1
			err = w.consume(ctx, h, t, src)
		}
		if !w.retry(ctx, "queue cannot be used, trying again", attempt, err, zap.Inline(tenantQueue{t.name, h.queue})) {
			return
		}
	}
}

// open subscribes to the queue of a handler, a few at a time.
func (w *Worker) open(ctx context.Context, h Handler) (*source, error) {
	select {
	case w.opening <- struct{}{}:
		defer func() { <-w.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return w.service.open(ctx, ctx, h.queue, h.concurrency)
}

// consume handles messages until ctx ends or the queue is gone. Its return value says why. It receives when there is a place
// for one more, and each message has a goroutine of its own, so that a queue where nothing comes costs no more than this one.
func (w *Worker) consume(ctx context.Context, h Handler, t *tenantWorker, src *source) error {
	defer src.Close()
	// Handlers outlive ctx, so that they finish; work ends when they may not any longer.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(w.drain, stop) })()

	count := w.service.rates.of(src.tenantQueue)
	places := make(chan struct{}, h.concurrency)
	var handling sync.WaitGroup
	defer handling.Wait()
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		d, err := src.Receive()
		if err != nil {
			return err
		}
		count.delivered.Add(1)
		handling.Go(func() {
			defer func() { <-places }()
			if !w.enter(work) {
				w.settle(d.Nack, src.tenantQueue, d.ID)
				return
			}
			defer w.leave()
			if w.handle(auth.With(work, t.principal.Load()), h, src.tenantQueue, d) {
				count.acknowledged.Add(1)
			}
		})
	}
}

// enter blocks until the process may handle one more message. It reports false when ctx ended before.
func (w *Worker) enter(ctx context.Context) bool {
	if w.running == nil {
		return true
	}
	select {
	case w.running <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *Worker) leave() {
	if w.running != nil {
		<-w.running
	}
}

// handle is what stands around every handler: recover, trace, the handler, the log line, and the end of the delivery. It
// says whether the message was handled.
func (w *Worker) handle(ctx context.Context, h Handler, queue tenantQueue, d broker.Delivery) bool {
	m := fromBroker(d)
	if d.Attempt > 1 && w.setAside(ctx, queue, d, m) {
		return false
	}
	if isSuspect(m) {
		if w.suspect.TryLock() {
			defer w.suspect.Unlock()
			loop.Sleep(ctx, makeWay)
		} else if w.postpone(ctx, queue, m) {
			w.settle(d.Ack, queue, d.ID)
			return false
		}
	}
	line := &line{queue: queue, message: m, start: time.Now()}
	err := w.call(ctx, h, m)
	if err == nil {
		w.lines.Info("message handled", zap.Inline(line))
		return w.settle(d.Ack, queue, d.ID)
	}
	f := &failure{message: m, reason: err.Error(), permanent: !errs.Retryable(err)}
	if ctx.Err() != nil || !w.move(ctx, queue, f) { // The process has no more time for it, which is not the message's fault.
		w.lines.Warn("message given back", zap.Inline(line), zap.Error(err))
		w.settle(d.Nack, queue, d.ID)
		return false
	}
	line.failure = f
	w.lines.Error("message failed", zap.Inline(line))
	w.settle(d.Ack, queue, d.ID)
	return false
}

// setAside has a message wait that was delivered before and not settled: the process died with it, say. That attempt
// counts as failed, and if it is the message that kills, it must not do so again at once. It is false while Postgres is
// away; then the message is handled.
func (w *Worker) setAside(ctx context.Context, queue tenantQueue, d broker.Delivery, m Message) bool {
	f := cutShort(m)
	if w.service.fail(ctx, queue.queue, f) != nil {
		return false
	}
	w.lines.Warn("message came again", zap.Inline(&line{queue: queue, message: m, failure: f}))
	w.settle(d.Ack, queue, d.ID)
	return true
}

// postpone has a suspect wait while another one is handled, which may end the process once more: then it is not the same
// messages again that end with it. It is false while Postgres is away; then they are handled beside each other.
func (w *Worker) postpone(ctx context.Context, queue tenantQueue, m Message) bool {
	f := &failure{message: m, reason: m.reason, postponed: true}
	if w.service.fail(ctx, queue.queue, f) != nil {
		return false
	}
	w.lines.Info("message waits for another that was cut short too", zap.Inline(&line{queue: queue, message: m, failure: f}))
	return true
}

// move moves a message on whose attempt failed. While Postgres is away it keeps the message's place, for all others would
// fare no better. It is false when ctx has ended.
func (w *Worker) move(ctx context.Context, queue tenantQueue, f *failure) bool {
	for attempt := 1; ; attempt++ {
		err := w.service.fail(ctx, queue.queue, f)
		if err == nil {
			return true
		}
		if !w.retry(ctx, "failed message cannot be moved, trying again", attempt, err, zap.Inline(queue)) {
			return false
		}
	}
}

// settle needs no deadline: brokers give up by themselves.
func (w *Worker) settle(how func(context.Context) error, queue tenantQueue, id string) bool {
	err := how(context.Background())
	if err != nil {
		w.service.log.Warn("settling failed, the message will come again", zap.Inline(queue), zap.String("id", id), zap.Error(err))
	}
	return err == nil
}

// call runs the handler in its context.
func (w *Worker) call(ctx context.Context, h Handler, m Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			w.service.log.Error("handler panicked", zap.Inline(tenantQueue{auth.TenantOf(ctx), h.queue}), zap.String("id", m.ID), zap.Error(err),
				zap.ByteString("stack", debug.Stack()))
		}
	}()
	ctx = observe.WithTrace(ctx, m.headers["traceparent"], m.headers["tracestate"])
	ctx = context.WithValue(ctx, messageKey{}, m)
	if h.handleTx == nil {
		return h.handle(ctx, m)
	}
	return w.service.handlers.InTx(ctx, func(tx *pg.Tx) error {
		first, err := insertHandled(ctx, tx, h.consumer, m.ID)
		if err != nil || !first {
			return err
		}
		return h.handleTx(ctx, tx, m)
	})
}

// retry waits before the next attempt at what failed. It is false when ctx has ended.
func (w *Worker) retry(ctx context.Context, what string, attempt int, err error, fields ...zap.Field) bool {
	if ctx.Err() != nil {
		return false
	}
	delay := loop.Delay(attempt, minReconnect, maxReconnect)
	w.service.log.Warn(what, append(fields, zap.Duration("retry_in_ms", delay), zap.Error(err))...)
	return loop.Sleep(ctx, delay)
}

// line is what the log says of one delivery.
type line struct {
	queue   tenantQueue
	message Message
	start   time.Time // of the handler; zero where there is none
	failure *failure  // nil where the attempt did not fail
}

// MarshalLogObject gives the fields of the line.
func (l *line) MarshalLogObject(line zapcore.ObjectEncoder) error {
	_ = l.queue.MarshalLogObject(line)
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
