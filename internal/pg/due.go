package pg

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
)

const (
	// lateLimit is the timeout of a call of DueConfig.Late.
	lateLimit = time.Second
	// dueLate is how late a row may be before the other processes help the leader.
	dueLate = 500 * time.Millisecond
	// duePace is the least time between two wake-ups, so that rows written at about the same time are processed together.
	duePace = 5 * time.Millisecond

	dueMinBackoff = 100 * time.Millisecond
	dueMaxBackoff = 3 * time.Second
)

// Due processes rows as they come due. It sleeps until the next row is due, wakes when a notification says that there may be
// an earlier one, and claims and processes rows as long as any are due. Any number of processes may run a Due for the same
// rows. One of them, the leader, acts on notifications; the others check once in a while whether the leader keeps up, and
// join in if it does not.
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
	// Poll is how often a process checks whether rows are late. The check finds rows that a process left behind when it
	// died, rows whose notification was lost, and rows that a leader which hangs does not process.
	Poll time.Duration
	// Lanes is the most batches that this process works on at a time.
	Lanes int
	// Late returns how long ago the earliest row came due. It is negative if that row is not due yet.
	Late func(ctx context.Context) (time.Duration, error)
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
	return d
}

// Run processes rows until ctx ends; then it finishes the current batches, whose duration is bounded by Work.
func (d *Due) Run(ctx context.Context) error {
	d.timer.Reset(0)
	defer d.timer.Stop()
	defer d.notifier.take(d.duty)()
	var running sync.WaitGroup
	running.Go(func() { d.watch(ctx) })
	for range d.Lanes {
		running.Go(func() { d.lane(ctx) })
	}
	running.Wait()
	return nil
}

// watch wakes the lanes.
func (d *Due) watch(ctx context.Context) {
	poll := time.NewTicker(d.Poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.woken:
			if !d.duty.leads.Load() {
				continue
			}
			loop.Signal(d.token)
			if !loop.Sleep(ctx, duePace) {
				return
			}
		case <-poll.C:
			if d.isLate(ctx) {
				loop.Signal(d.token)
			}
		}
	}
}

// isLate reports whether the leader does not keep up. It ignores errors: the lanes report a database that is away.
func (d *Due) isLate(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lateLimit)
	defer cancel()
	late, err := d.Late(ctx)
	return err == nil && late > dueLate
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
	if d.duty.leads.Load() { // Otherwise the rows are the leader's, unless it is late.
		d.timer.Reset(next)
	}
}
