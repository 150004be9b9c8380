package pg

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
)

const (
	// lateLimit bounds the question whether rows are late.
	lateLimit = time.Second
	// dueLate is how late a row may be before the others come to the leader's help.
	dueLate = 500 * time.Millisecond
	// duePace is the least time between two wakes, so that what is written at about the same time is worked off together.
	duePace = 5 * time.Millisecond

	dueMinBackoff = 100 * time.Millisecond
	dueMaxBackoff = 3 * time.Second
)

// Due works off rows that come due: it sleeps until the next one does, wakes when a notification says that an earlier one may
// be there, and claims and works as long as there are any. Any number of processes may run it for the same rows. One of them,
// the leader, acts on a notification; the others look once in a while whether it keeps up, and join where it does not.
type Due struct {
	DueConfig
	notifier *Notifier
	duty     *duty
	token    chan struct{} // there may be something to do
	woken    chan struct{} // by a notification
	mu       sync.Mutex
	timer    *time.Timer
}

// DueConfig says what is due, and what to do then.
type DueConfig struct {
	What string // for the log: "waiting messages"
	// Channel and Payload are those of the notification that rows which may be due before all others are there.
	Channel, Payload string
	// Poll is how often a process looks whether rows are late. That finds rows that a process left when it died, notifications
	// that were lost, and rows that a leader who hangs does not come to.
	Poll time.Duration
	// Lanes is how many batches may be worked off at a time in this process.
	Lanes int
	// Late returns for how long the earliest row has been due, which is negative for one that is not yet.
	Late func(ctx context.Context) (time.Duration, error)
	// Work claims rows that are due, with FOR UPDATE SKIP LOCKED, and works them off. It calls more as soon as it knows that
	// it has left some that are due, so that another lane begins meanwhile. It returns how long there is nothing to do, as far
	// as it has seen: 0 says that there may be more now. An error means that nothing was changed; it is logged, and Work is
	// called again after a back-off that grows.
	Work func(ctx context.Context, more func()) (next time.Duration, err error)
	Log  *zap.Logger
}

// NewDue returns a Due that n wakes. It comes before n.Run.
func (n *Notifier) NewDue(c DueConfig) *Due {
	d := &Due{DueConfig: c, notifier: n, token: make(chan struct{}, 1), woken: make(chan struct{}, 1)}
	d.duty = n.newDuty(c.Channel+" "+c.Payload, func() { loop.Signal(d.woken) })
	n.Subscribe(c.Channel, func(payload string) {
		if payload == c.Payload || payload == "" {
			loop.Signal(d.woken)
		}
	})
	return d
}

// Run works until ctx ends; then it finishes the batches in hand, which Work bounds.
func (d *Due) Run(ctx context.Context) error {
	d.timer = time.AfterFunc(0, func() { loop.Signal(d.token) })
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

// watch signals the lanes.
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

// isLate reports whether the leader does not keep up. It is the business of the lanes to tell of a database that is away.
func (d *Due) isLate(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lateLimit)
	defer cancel()
	late, err := d.Late(ctx)
	return err == nil && late > dueLate
}

// lane works off one batch after the other.
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

// sleep signals a lane after a while. The latest to say so has seen the most.
func (d *Due) sleep(next time.Duration) {
	if next <= 0 {
		loop.Signal(d.token)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.duty.leads.Load() { // Else it is for the leader, unless it is late.
		d.timer.Reset(next)
	}
}
