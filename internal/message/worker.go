package message

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// Back-off of what cannot reach its backends. It is short, so that work resumes soon after they are back.
const (
	minReconnect = time.Second
	maxReconnect = 4 * time.Second
)

// makeWay is how long a suspect waits before it is handled, so that other suspects that came with it are postponed by
// then.
const makeWay = 500 * time.Millisecond

// Worker runs handlers for every active tenant, and pushes the messages of queues that have a push.
type Worker struct {
	service  *Service
	handlers []Handler
	lines    *zap.Logger
	drain    time.Duration
	tenants  Tenants
	opening  chan struct{} // has a token for each queue that is being subscribed to; bounded, so that calls have connections left
	present  *queueSet     // the existing queues of the handlers
	running  chan struct{} // has a token for each message that is being handled; nil means no limit
	suspect  sync.Mutex    // held while a suspect is handled
	pushes   *pushes
	roster   *roster
}

// WorkerConfig configures a Worker.
type WorkerConfig struct {
	Service  *Service
	Handlers []Handler
	Tenants  Tenants       // whose messages are handled
	Drain    time.Duration // how long handlers may take to finish their messages after the worker or their tenant ends
	Lines    *zap.Logger   // for the one line of each message; there may be many, so it should be buffered
}

// NewWorker returns a Worker.
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
	w.pushes = newPushes(w)
	w.roster = newRoster(w)
	return w
}

// EnsureQueues creates the queues of all handlers for the default tenant, and retries until ctx ends.
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

// Run consumes and pushes until ctx ends. Then it takes no more messages, finishes those it holds and returns nil.
func (w *Worker) Run(ctx context.Context) error {
	if len(w.handlers) > 0 {
		w.service.present.Store(w.present)
		loop.Signal(w.service.heardPolicies)
	}
	var pushing sync.WaitGroup
	defer pushing.Wait()
	pushing.Go(func() { defer observe.LogPanic(w.service.log); w.pushes.run(ctx) })
	pushing.Go(func() { defer observe.LogPanic(w.service.log); w.roster.run(ctx) })
	w.serveTenants(ctx)
	return nil
}

// awaitQueue blocks until a queue exists and is the worker's to serve. It returns false if ctx has ended.
func (w *Worker) awaitQueue(ctx context.Context, queue tenantQueue) bool {
	for {
		there, until := w.present.of(queue)
		is, changed := w.roster.serves(queue, true)
		if there && is {
			return ctx.Err() == nil
		}
		select {
		case <-until.Done():
		case <-changed.Done():
		case <-ctx.Done():
			return false
		}
	}
}

// serve consumes from a tenant's queue of a handler until ctx ends, and starts again whenever the queue is lost. While
// there is no queue, or other workers serve it, it waits. The credit is the number of messages that the handler may handle at a time: a
// message that waited here behind a slow one could be handled by another process, and if this process ended, that would
// count as an attempt of a message that no handler has seen.
func (w *Worker) serve(ctx context.Context, h Handler, t *tenantWorker) {
	for attempt := 1; w.awaitQueue(ctx, tenantQueue{t.name, h.queue}); attempt++ {
		term, end := w.roster.term(ctx, tenantQueue{t.name, h.queue})
		src, err := w.open(term, h)
		if err == nil {
			attempt = 1
			err = w.consume(term, h, t, src)
		}
		moved := term.Err() != nil
		end()
		if moved && ctx.Err() == nil { // Others serve it now.
			attempt = 0
			continue
		}
		if !w.retry(ctx, "queue cannot be used, trying again", attempt, err, zap.Inline(tenantQueue{t.name, h.queue})) {
			return
		}
	}
}

// open subscribes to the queue of a handler. Only a few queues are subscribed to at a time.
func (w *Worker) open(ctx context.Context, h Handler) (*source, error) {
	select {
	case w.opening <- struct{}{}:
		defer func() { <-w.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return w.service.open(ctx, ctx, h.queue, h.concurrency)
}

// consume handles messages until ctx ends or the queue is gone, and returns why. It receives a message only when it can
// handle one more. Each message has its own goroutine, so that an idle queue costs only this one.
func (w *Worker) consume(ctx context.Context, h Handler, t *tenantWorker, src *source) error {
	defer src.Close()
	work, stop := w.working(ctx)
	defer stop()
	count := w.service.rates.of(src.tenantQueue)
	places := make(chan struct{}, h.concurrency)
	var handling sync.WaitGroup
	defer handling.Wait()
	defer src.stop() // Before handlers give back what they cannot finish.
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
			defer observe.LogPanic(w.service.log)
			defer func() { <-places }()
			if !w.enter(work) {
				src.giveBack(d)
				return
			}
			defer w.leave()
			if w.handle(auth.With(work, t.principal.Load()), h, src, d) {
				count.acknowledged.Add(1)
			}
		})
	}
}

// working returns the context of handlers, which may finish after ctx ends. It ends when their time is over.
func (w *Worker) working(ctx context.Context) (work context.Context, stop func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(w.drain, cancel) })
	return work, func() { unhook(); cancel() }
}

// enter blocks until the process may handle one more message. It returns false if ctx ended before that.
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

// handle runs a handler for a delivery, with recover and trace, writes the log line and settles the delivery. It reports
// whether the message was handled.
func (w *Worker) handle(ctx context.Context, h Handler, src *source, d broker.Delivery) bool {
	m, queue := fromBroker(d), src.tenantQueue
	if d.Attempt > 1 && w.setAside(ctx, h, queue, d, m) {
		return false
	}
	if isSuspect(m) && !h.remote {
		if w.suspect.TryLock() {
			defer w.suspect.Unlock()
			loop.Sleep(ctx, makeWay)
		} else if w.postpone(ctx, queue, m) {
			w.settle(d.Ack, queue, d.ID)
			return false
		}
	}
	line := &line{queue: queue, message: m, start: time.Now()}
	traced, span := w.service.startProcessing(context.WithValue(ctx, observe.CallKey{}, &line.spent), m)
	line.trace = span.TraceID()
	err := h.call(traced, w.service.handlers, w.service.log, m)
	if err == nil {
		endProcessing(span, queue, m, nil)
		w.lines.Info("message handled", zap.Inline(line))
		w.service.metrics.handled(h.label, outcomeHandled, m, line.start)
		return w.settle(d.Ack, queue, d.ID)
	}
	f := h.failed(m, err)
	if f.postponed { // By the handler itself, which is no failure.
		endProcessing(span, queue, m, nil)
	} else {
		endProcessing(span, queue, m, err)
	}
	if ctx.Err() != nil || !w.move(ctx, queue, f) { // The process stops, so this is no failure of the message.
		w.lines.Warn("message given back", zap.Inline(line), zap.Error(err))
		w.service.metrics.handled(h.label, outcomeGivenBack, m, line.start)
		src.giveBack(d)
		return false
	}
	line.failure = f
	w.service.metrics.failed(h.label, f, line.start)
	if f.postponed {
		w.lines.Info("message snoozed", zap.Inline(line))
	} else {
		w.lines.Error("message failed", zap.Inline(line))
	}
	w.settle(d.Ack, queue, d.ID)
	return false
}

// setAside makes a message wait that was delivered before and not settled, for example because its process died. That
// attempt counts as failed, and if the message ends processes, it must not do so again at once. setAside returns false
// while Postgres is away; then the message is handled.
func (w *Worker) setAside(ctx context.Context, h Handler, queue tenantQueue, d broker.Delivery, m Message) bool {
	f := cutShort(m)
	f.most = h.maxAttempts
	if w.service.fail(ctx, queue.queue, f) != nil {
		return false
	}
	w.service.metrics.failed(h.label, f, time.Time{})
	w.lines.Warn("message came again", zap.Inline(&line{queue: queue, message: m, failure: f}))
	w.settle(d.Ack, queue, d.ID)
	return true
}

// postpone makes a suspect wait while another suspect is handled. If that one ends the process, the two do not fail
// together again. postpone returns false while Postgres is away; then they are handled at the same time.
func (w *Worker) postpone(ctx context.Context, queue tenantQueue, m Message) bool {
	f := &failure{message: m, reason: m.reason, postponed: true}
	if w.service.fail(ctx, queue.queue, f) != nil {
		return false
	}
	w.lines.Info("message waits for another that was cut short too", zap.Inline(&line{queue: queue, message: m, failure: f}))
	return true
}

// move moves a message whose attempt failed. While Postgres is away it retries and the message keeps its place, since
// other messages could not be moved either. It returns false if ctx has ended.
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

// settle settles a delivery. It needs no deadline: brokers give up by themselves.
func (w *Worker) settle(how func(context.Context) error, queue tenantQueue, id string) bool {
	err := how(context.Background())
	if err != nil {
		w.service.log.Warn("settling failed, the message will come again", zap.Inline(queue), zap.String("id", id), zap.Error(err))
	}
	return err == nil
}

// retry logs a failure and waits before the next attempt. It returns false if ctx has ended.
func (w *Worker) retry(ctx context.Context, what string, attempt int, err error, fields ...zap.Field) bool {
	if ctx.Err() != nil {
		return false
	}
	delay := loop.Delay(attempt, minReconnect, maxReconnect)
	w.service.log.Warn(what, append(fields, zap.Duration("retry_in_ms", delay), zap.Error(err))...)
	return loop.Sleep(ctx, delay)
}

// line holds the fields of the log line of one delivery.
type line struct {
	queue   tenantQueue
	message Message
	start   time.Time // of the handler; zero if it was not called
	failure *failure  // nil if the attempt did not fail
	spent   observe.Spent
	trace   string // its id; empty without tracing
}

// MarshalLogObject adds the fields to a log line.
func (l *line) MarshalLogObject(line zapcore.ObjectEncoder) error {
	_ = l.queue.MarshalLogObject(line)
	line.AddString("id", l.message.ID)
	line.AddInt64("attempt", int64(l.message.Attempt))
	if !l.start.IsZero() {
		line.AddDuration("duration_ms", time.Since(l.start))
	}
	l.spent.AddTo(line)
	if l.trace != "" {
		line.AddString("trace_id", l.trace)
	} else if parent := l.message.headers["traceparent"]; len(parent) >= 35 {
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
