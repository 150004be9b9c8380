package pg

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
	"plinth/internal/observe"
)

const (
	// duePace is the least time between two wake-ups, so that rows written at about the same time are processed together.
	duePace = 5 * time.Millisecond

	dueMinBackoff = 100 * time.Millisecond
	dueMaxBackoff = 3 * time.Second
)

// Due processes rows as they come due. It sleeps until the next row is due, wakes when a notification says that there may be
// an earlier one, and claims and processes rows as long as any are due. Any number of processes may run a Due for the same
// rows. One of them, the leader, acts on notifications; the others join in if rows are late, since then the leader does not
// keep up.
type Due struct {
	DueConfig
	notifier *Notifier
	duty     *duty
	token    chan struct{} // there may be something to do
	woken    chan struct{} // a notification came
	mu       sync.Mutex
	timer    *time.Timer
}

// DueConfig says which rows come due, and how to process them.
type DueConfig struct {
	What string // for the log: "waiting messages"
	// Channel and Payload identify the notification that is sent when rows are written that may be due before all others.
	Channel, Payload string
	// Lanes is the most batches that this process works on at a time.
	Lanes int
	// Shared has every process act on notifications and sleep until the next row is due, for work that takes its time and is to
	// be spread over the processes.
	Shared bool
	// Late is a query for how long ago the earliest row came due, an interval. It is negative if that row is not due yet, or
	// there is none. It is asked every few seconds, which finds rows that a process left behind when it died, rows whose
	// notification was lost, and rows that a leader which hangs does not process. So an index must answer it.
	Late string
	// Work claims rows that are due, with FOR UPDATE SKIP LOCKED, and processes them. It calls more as soon as it knows that
	// it leaves due rows behind, so that another lane starts meanwhile. It returns how long there is nothing to do, as far
	// as it has seen; 0 means that more rows may be due now. An error means that nothing was changed: it is logged, and Work
	// is called again after a growing back-off.
	Work func(ctx context.Context, more func()) (next time.Duration, err error)
	Log  *zap.Logger
}

// NewDue returns a Due that is woken by n. It must be called before n.Run.
func (n *Notifier) NewDue(c DueConfig) *Due {
	d := &Due{DueConfig: c, notifier: n, token: make(chan struct{}, 1), woken: make(chan struct{}, 1)}
	d.duty = n.newDuty(c.Channel+" "+c.Payload, func() { loop.Signal(d.woken) })
	n.Subscribe(c.Channel, func(payload string) {
		if payload == c.Payload || payload == "" {
			loop.Signal(d.woken)
		}
	})
	d.timer = time.AfterFunc(time.Hour, func() { loop.Signal(d.token) })
	d.timer.Stop() // until Run
	n.dues = append(n.dues, d)
	return d
}

// Run processes rows until ctx ends; then it finishes the current batches, whose duration is bounded by Work.
func (d *Due) Run(ctx context.Context) error {
	d.timer.Reset(0)
	defer d.timer.Stop()
	defer d.notifier.take(d.duty)()
	var running sync.WaitGroup
	running.Go(func() { defer observe.LogPanic(d.Log); d.watch(ctx) })
	for range d.Lanes {
		running.Go(func() { defer observe.LogPanic(d.Log); d.lane(ctx) })
	}
	running.Wait()
	return nil
}

// Wake has a lane look for rows. It is for a process that left due rows behind and can process them now.
func (d *Due) Wake() { loop.Signal(d.token) }

// acts reports whether this process acts before rows are late.
func (d *Due) acts() bool { return d.Shared || d.duty.leads.Load() }

// watch wakes the lanes.
func (d *Due) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.woken:
			if !d.acts() {
				continue
			}
			loop.Signal(d.token)
			if !loop.Sleep(ctx, duePace) {
				return
			}
		}
	}
}

// lane processes one batch after the other.
func (d *Due) lane(ctx context.Context) {
	backoff := loop.Backoff{Min: dueMinBackoff, Max: dueMaxBackoff}
	for {
		select {
		case <-d.token:
		case <-ctx.Done():
			return
		}
		next, err := d.Work(ctx, func() { loop.Signal(d.token) })
		if err == nil {
			backoff.Reset()
			d.sleep(next)
			continue
		}
		delay := backoff.Next()
		d.Log.Warn(d.What+" cannot be worked off, trying again", zap.Duration("retry_in_ms", delay), zap.Error(err))
		if !loop.Sleep(ctx, delay) {
			return
		}
		loop.Signal(d.token)
	}
}

// sleep wakes a lane after next. The latest call wins, because its caller has the most recent view of the rows.
func (d *Due) sleep(next time.Duration) {
	if next <= 0 {
		loop.Signal(d.token)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.acts() { // Otherwise the rows are the leader's, unless it is late.
		d.timer.Reset(next)
	}
}

// Leads reports whether this process acts before rows are late.
func (d *Due) Leads() bool { return d.duty.leads.Load() }
