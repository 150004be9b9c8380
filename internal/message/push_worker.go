package message

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

// pushMargin is how much longer a call may take than its timeout, before it is cut off.
const pushMargin = 5 * time.Second

// pushLabel is the queue of pushes in the metrics of handlers: the queues of clients may be many. It is no name of a queue.
const pushLabel = "(push)"

// pushes are what a worker pushes: for each queue with a push, of each active tenant, one pusher.
type pushes struct {
	worker *Worker
	id     string            // of the worker's rows
	set    *queueMap[string] // versions
	places *pushPlaces
	active atomic.Pointer[[]auth.Tenant]
	news   chan struct{} // has a token after active has changed

	mu   sync.Mutex
	live map[tenantQueue]*pusher
}

func newPushes(w *Worker) *pushes {
	return &pushes{
		worker: w, id: uuid.NewString(), set: newQueueMap(selectPushes), places: newPushPlaces(w.service.limits.Pushes),
		news: make(chan struct{}, 1), live: map[tenantQueue]*pusher{},
	}
}

// setTenants sets the active tenants.
func (p *pushes) setTenants(active []auth.Tenant) {
	p.active.Store(&active)
	loop.Signal(p.news)
}

// run pushes until ctx ends and all calls have ended.
func (p *pushes) run(ctx context.Context) {
	p.worker.service.pushed.Store(p.set)
	loop.Signal(p.worker.service.heardPolicies)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { defer observe.LogPanic(p.worker.service.log); p.tell(ctx) })
	for {
		versions, until := p.set.all()
		changed := p.worker.roster.changed()
		if active := p.active.Load(); active != nil {
			p.update(ctx, &running, *active, versions)
		}
		select {
		case <-p.news:
		case <-until.Done():
		case <-changed.Done():
		case <-ctx.Done():
			return
		}
	}
}

// update starts, changes and stops pushers so that there is one for each queue that the worker serves.
func (p *pushes) update(ctx context.Context, running *sync.WaitGroup, active []auth.Tenant, versions map[tenantQueue]string) {
	tenants := make(map[string]auth.Tenant, len(active))
	for _, t := range active {
		tenants[t.Name] = t
	}
	mine := func(q tenantQueue) bool {
		is, _ := p.worker.roster.serves(q, false)
		return is
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for q, one := range p.live {
		if _, is := tenants[q.tenant]; !is || versions[q] == "" || !mine(q) {
			one.stop()
			delete(p.live, q)
		}
	}
	for q, version := range versions {
		tenant, is := tenants[q.tenant]
		if !is || !mine(q) {
			continue
		}
		principal := &auth.Principal{ID: "service", Tenant: tenant, Scopes: []string{auth.All}}
		if one := p.live[q]; one != nil {
			one.principal.Store(principal)
			one.want(version)
		} else {
			p.start(ctx, running, q, principal, version)
		}
	}
}

func (p *pushes) start(ctx context.Context, running *sync.WaitGroup, q tenantQueue, principal *auth.Principal, version string) {
	one := &pusher{pushes: p, worker: p.worker, tenantQueue: q, endpoint: newEndpoint(1), news: make(chan struct{}, 1)}
	one.principal.Store(principal)
	one.wanted.Store(&version)
	ctx, one.stop = context.WithCancel(auth.AsService(ctx, q.tenant))
	p.live[q] = one
	running.Go(func() { defer observe.LogPanic(p.worker.service.log); one.run(ctx) })
}

// each returns the pushers.
func (p *pushes) each() map[tenantQueue]*pusher {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.live)
}

// pusher pushes the messages of one queue.
type pusher struct {
	pushes *pushes
	worker *Worker
	tenantQueue
	principal atomic.Pointer[auth.Principal]
	endpoint  *endpoint
	target    atomic.Pointer[target]
	stop      context.CancelFunc

	wanted atomic.Pointer[string] // the version of the push
	has    string                 // that of target
	news   chan struct{}          // has a token after wanted has changed
}

// want tells the pusher which version of the push there is.
func (p *pusher) want(version string) {
	if before := p.wanted.Swap(&version); before == nil || *before != version {
		loop.Signal(p.news)
	}
}

// run pushes until ctx ends and all calls have ended.
func (p *pusher) run(ctx context.Context) {
	for attempt := 1; p.load(ctx); attempt++ {
		src, err := p.worker.open(ctx, Handler{queue: p.queue, concurrency: 1})
		if err == nil {
			attempt = 1
			err = p.consume(ctx, src)
		}
		if errs.Is(err, errs.NotFound) { // It was deleted, which update is about to learn.
			if !loop.Sleep(ctx, loop.Delay(attempt, minReconnect, maxReconnect)) {
				return
			}
		} else if ctx.Err() != nil || err != nil && !p.worker.retry(ctx, "queue cannot be used, trying again", attempt, err, zap.Inline(p.tenantQueue)) {
			return
		}
	}
}

// load reads the push if it has changed, and blocks until there is one that can be called. It returns false if ctx has ended.
func (p *pusher) load(ctx context.Context) bool {
	for attempt := 1; ; attempt++ {
		wanted := *p.wanted.Load()
		if wanted == p.has {
			return ctx.Err() == nil
		}
		sealed, err := selectPush(ctx, p.worker.service.handlers, p.tenantQueue)
		if err == nil && sealed != nil {
			if err = p.use(sealed); err == nil {
				p.has = wanted
				continue
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if err != nil { // Else it ended, which update is about to learn.
			p.worker.service.log.Warn("a queue cannot be pushed, trying again", zap.Inline(p.tenantQueue), zap.Error(err))
		}
		delay := time.NewTimer(loop.Delay(attempt, minReconnect, maxReconnect))
		select {
		case <-p.news:
		case <-delay.C:
		case <-ctx.Done():
		}
		delay.Stop()
	}
}

// use has the pusher call what a sealed push says.
func (p *pusher) use(sealed *Push) error {
	t, err := p.worker.service.parsePush(p.worker.service.openPush(p.tenant, sealed), time.Now())
	if err != nil {
		p.endpoint.refuse(said(err))
		return err
	}
	before := p.target.Swap(t)
	if before == nil || before.most != t.most {
		p.endpoint.resize(t.most)
	}
	if before != nil && before.url.String() != t.url.String() {
		p.endpoint.reset()
	}
	return nil
}

// consume pushes messages until ctx ends or the queue is gone, and returns why. It receives only what it may send at once, so that other
// consumers get the rest.
func (p *pusher) consume(ctx context.Context, src *source) error {
	defer src.Close()
	work, stop := p.worker.working(ctx)
	defer stop()
	count := p.worker.service.rates.of(p.tenantQueue)
	var calling sync.WaitGroup
	defer calling.Wait()
	defer src.stop()
	for {
		if err := p.ready(ctx, src); err != nil {
			return err
		}
		d, err := src.Receive()
		if err != nil {
			return err
		}
		if p.endpoint.held() > 0 || p.isStale() || !p.pushes.places.enter(ctx, p.tenantQueue) {
			src.suspend() // Before it goes back, so that it does not come to this source at once.
			src.giveBack(d)
			continue
		}
		count.delivered.Add(1)
		c := p.endpoint.begin()
		h := p.handler(c)
		calling.Go(func() {
			defer observe.LogPanic(p.worker.service.log)
			defer p.pushes.places.leave(p.tenantQueue)
			defer c.end()
			if p.worker.handle(auth.With(work, p.principal.Load()), h, src, d) {
				count.acknowledged.Add(1)
			}
		})
	}
}

// handler returns what handles one message.
func (p *pusher) handler(c *call) Handler {
	return Handler{
		queue: p.queue, consumer: p.queue.name, timeout: p.target.Load().timeout + pushMargin, label: pushLabel, remote: true,
		handle: func(ctx context.Context, m Message) error { return p.send(ctx, c, m) },
	}
}

// ready blocks until one more message may be sent, with a credit at the broker that follows how many may be at a time.
func (p *pusher) ready(ctx context.Context, src *source) error {
	for {
		if p.isStale() {
			src.suspend() // It may take a while until there is a push that can be called.
			if !p.load(ctx) {
				return ctx.Err()
			}
		}
		if wait := p.endpoint.held(); wait > 0 {
			src.suspend()
			if err := p.rest(ctx, wait); err != nil {
				return err
			}
			continue
		}
		if !p.endpoint.room(ctx) {
			return ctx.Err()
		}
		if p.endpoint.held() <= 0 && !p.isStale() {
			return src.resize(min(creditFor(p.endpoint.allowed()), p.target.Load().most))
		}
	}
}

// creditFor returns the credit for a number of calls at a time: the next power of two, so that it seldom changes.
func creditFor(calls int) int {
	credit := 1
	for credit < calls {
		credit *= 2
	}
	return credit
}

// rest waits, or until the push has changed.
func (p *pusher) rest(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.news:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (p *pusher) isStale() bool { return *p.wanted.Load() != p.has }
