package message

import (
	"context"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
)

const (
	rosterEvery = 10 * time.Second // how often a worker tells that it is there
	rosterLapse = 25 * time.Second // one that has not told for so long is gone

	// sharedBeyond is how many queues every worker serves all of. Beyond it each queue is served by serversOfQueue workers, so that
	// when one of them dies another is there.
	sharedBeyond   = 500
	serversOfQueue = 2
)

// roster is what a worker knows of all workers, by which each finds by itself which queues are its own: for each queue the workers
// have an order of their own (rendezvous hashing), and the first of them serve it. When a worker comes or goes, only the queues move that
// it serves. While workers know different rosters, a queue may have more of them, or fewer for a moment.
type roster struct {
	worker   *Worker
	id       uuid.UUID
	handlers []string // the queues of the worker's own
	beyond   int
	every    time.Duration
	lapse    time.Duration

	mu     sync.Mutex
	known  bool // whether the workers were read
	all    []member
	shared bool
	until  context.Context // ends when the answers change
	change context.CancelFunc
}

// member is a worker.
type member struct {
	id       uuid.UUID
	handlers []string
}

func newRoster(w *Worker) *roster {
	r := &roster{worker: w, id: uuid.New(), beyond: sharedBeyond, every: rosterEvery, lapse: rosterLapse}
	for _, h := range w.handlers {
		r.handlers = append(r.handlers, h.queue.name)
	}
	r.until, r.change = context.WithCancel(context.Background())
	return r
}

// run tells that the worker is there, and reads who else is, until ctx ends. Then the others are told that it is gone.
func (r *roster) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		_, handled := r.worker.present.all()
		_, pushed := r.worker.pushes.set.all()
		select {
		case <-timer.C:
			timer.Reset(r.every)
			r.read(ctx)
		case <-r.worker.service.heardWorkers:
			r.read(ctx)
		case <-handled.Done():
			r.count()
		case <-pushed.Done():
			r.count()
		case <-ctx.Done():
			r.leave()
			return
		}
	}
}

// read tells and reads. While Postgres is away, what was read before applies.
func (r *roster) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.every)
	defer cancel()
	came, all, err := tellWorker(ctx, r.worker.service.system, r.id, r.handlers, r.lapse)
	if err != nil {
		return
	}
	if came {
		r.worker.service.notifier.Notify(channel, newWorkers)
	}
	r.update(func() { r.all, r.known = all, true })
}

// leave tells the others that the worker is gone, so that they need not notice.
func (r *roster) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := deleteWorker(ctx, r.worker.service.system, r.id); err != nil {
		r.worker.service.log.Warn("a worker that stops cannot tell the others", zap.Error(err))
		return
	}
	r.worker.service.notifier.Notify(channel, newWorkers)
}

// count finds out whether there are as many queues that the workers share them. They go on to do so while there are half as many.
func (r *roster) count() { r.update(func() {}) }

// update changes the roster, and ends the answers if they are others now.
func (r *roster) update(change func()) {
	handled, _ := r.worker.present.all()
	pushed, _ := r.worker.pushes.set.all()
	r.mu.Lock()
	defer r.mu.Unlock()
	known, before, shared := r.known, r.all, r.shared
	change()
	n := len(handled) + len(pushed)
	r.shared = n > r.beyond || r.shared && n > r.beyond/2
	same := slices.EqualFunc(before, r.all, func(a, b member) bool { return a.id == b.id && slices.Equal(a.handlers, b.handlers) })
	if known != r.known || shared != r.shared || r.shared && !same {
		r.change()
		r.until, r.change = context.WithCancel(context.Background())
	}
}

// serves reports whether the worker serves a queue, of one of its handlers or to push it. The answer is valid until the returned
// context ends.
func (r *roster) serves(q tenantQueue, handled bool) (is bool, until context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known || !r.shared {
		return r.known, r.until
	}
	mine, before := rank(r.id, q), 0
	for _, m := range r.all {
		if m.id != r.id && (!handled || slices.Contains(m.handlers, q.queue.name)) && rank(m.id, q) > mine {
			before++
		}
	}
	return before < serversOfQueue, r.until
}

// changed returns a context that ends when the answers of serves change.
func (r *roster) changed() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until
}

// rank returns the place of a worker in the order of a queue, as a number that differs for each of them.
func rank(worker uuid.UUID, q tenantQueue) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(q.tenant + "." + q.queue.name)) // No tenant has a dot.
	_, _ = hash.Write(worker[:])
	// FNV changes few bits for the last bytes; these steps, of SplitMix64, spread them.
	n := hash.Sum64()
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// term returns a context that ends with ctx, or when the queue of a handler is not the worker's any more.
func (r *roster) term(ctx context.Context, q tenantQueue) (context.Context, context.CancelFunc) {
	term, end := context.WithCancel(ctx)
	var look func()
	look = func() {
		is, until := r.serves(q, true)
		if !is {
			end()
			return
		}
		stop := context.AfterFunc(until, look)
		context.AfterFunc(term, func() { stop() })
	}
	look()
	return term, end
}
