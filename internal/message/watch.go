package message

import (
	"context"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/observe"
)

const (
	// watchInterval is how often a watched queue is read. One whose reading takes long is read less often.
	watchInterval = time.Second
	watchRest     = 10 // times as long as the reading took
)

// Status is a reading of a queue.
type Status struct {
	Queue       QueueName
	At          time.Time
	Stats       Stats
	Outstanding int64          // what streams and handlers hold, as of the last bucket of the rates
	OldestAge   *time.Duration // of what is in the queue, since it was published; nil if there is nothing, or the broker cannot tell
	Paused      bool
}

// watches has the watched queues of this process. However many watch a queue, it is read once.
type watches struct {
	service *Service
	mu      sync.Mutex // guards everything below, and the watches
	queues  map[tenantQueue]*watch
}

// watch is a queue that somebody watches.
type watch struct {
	tenantQueue
	watchers int
	stop     context.CancelFunc
	n        int // readings so far
	last     Status
	err      error         // of the last reading
	changed  chan struct{} // closed at the next reading
}

// WatchQueue calls send with the status of a queue: at once, then once a second, and when queues were paused or resumed, until ctx ends or send
// fails. A send that takes long misses readings. Errors: NotFound, also when the queue is deleted; Unavailable if there was no reading yet.
func (s *Service) WatchQueue(ctx context.Context, queue QueueName, send func(Status) error) error {
	w := s.watches.join(tenantQueue{auth.TenantOf(ctx), queue})
	defer s.watches.leave(w)
	for seen := 0; ; {
		n, status, changed, err := s.watches.read(w)
		switch {
		case n == seen:
		case errs.Is(err, errs.NotFound), err != nil && seen == 0:
			return err
		case err == nil:
			if err := send(status); err != nil {
				return err
			}
		}
		seen = n
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (ws *watches) join(queue tenantQueue) *watch {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.queues[queue]
	if w == nil {
		ctx, stop := context.WithCancel(auth.AsService(context.Background(), queue.tenant))
		w = &watch{tenantQueue: queue, stop: stop, changed: make(chan struct{})}
		ws.queues[queue] = w
		go ws.run(ctx, w)
	}
	w.watchers++
	return w
}

func (ws *watches) leave(w *watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.watchers--; w.watchers == 0 {
		w.stop()
		if ws.queues[w.tenantQueue] == w {
			delete(ws.queues, w.tenantQueue)
		}
	}
}

// read returns the last reading, and a channel that is closed at the next one.
func (ws *watches) read(w *watch) (n int, last Status, changed <-chan struct{}, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return w.n, w.last, w.changed, w.err
}

// run reads a queue for as long as somebody watches it.
func (ws *watches) run(ctx context.Context, w *watch) {
	defer observe.LogPanic(ws.service.log)
	for {
		_, until := ws.service.pauses.of(w.tenantQueue)
		start := time.Now()
		status, err := ws.service.status(ctx, w.queue)
		ws.mu.Lock()
		w.n, w.err = w.n+1, err
		if err == nil {
			w.last = status
		}
		close(w.changed)
		w.changed = make(chan struct{})
		gone := errs.Is(err, errs.NotFound)
		if gone && ws.queues[w.tenantQueue] == w {
			delete(ws.queues, w.tenantQueue) // Who comes now may mean a new queue.
		}
		ws.mu.Unlock()
		if gone {
			return
		}
		rest := time.NewTimer(max(watchInterval, watchRest*time.Since(start)))
		select {
		case <-rest.C:
		case <-until.Done():
		case <-ctx.Done():
			rest.Stop()
			return
		}
		rest.Stop()
	}
}

// status reads a queue.
func (s *Service) status(ctx context.Context, queue QueueName) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	q, err := s.GetQueue(ctx, queue)
	if err != nil {
		return Status{}, err
	}
	status := Status{Queue: queue, At: time.Now(), Stats: *q.Stats, Paused: q.Paused}
	if status.Outstanding, err = selectOutstanding(ctx, s.db, queue); err != nil || q.Stats.Depth == 0 {
		return status, err
	}
	oldest, _, err := s.browse(ctx, queue, 0, 1, 0)
	if errs.Is(err, errs.Unimplemented) {
		err = nil
	}
	if len(oldest) > 0 {
		age := max(0, status.At.Sub(Message{ID: oldest[0].ID}.PublishedAt()))
		status.OldestAge = &age
	}
	return status, err
}
