package schedule

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/cron"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/message"
	"plinth/internal/pg"
)

const (
	// tickBatch is how many schedules of all tenants one transaction fires; tickLanes is how many of these a worker has in progress.
	tickBatch = 500
	tickLanes = 2
	tickLimit = 20 * time.Second
	tickBusy  = 50 * time.Millisecond // before the next look, if others have locked all that is due

	// A schedule that cannot be fired is left alone for longer each time.
	poisonMinBackoff = time.Second
	poisonMaxBackoff = 5 * time.Minute

	// farOff is how long there is nothing to do if nothing is planned.
	farOff = time.Hour
)

// firing is a schedule that a transaction has locked, with what becomes of its fire times.
type firing struct {
	schedule *Schedule
	tenant   string
	plan
	moved            bool   // the plan says when the schedule fires next
	active, buffered int    // runs that are not over, and those of them that wait for others
	allowed          int    // runs of the plan that the tenant may have, the first ones
	refused          error  // why it may have no more; nil if it may
	cancelled        []*Run // of the schedule, that had not begun
	unreadable       error  // why the schedule's definition is not known; nil if it is
}

// newTicks returns the loop that fires the schedules of all tenants. Several workers share it.
func (s *Service) newTicks() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "schedules", Channel: channel, Payload: newTicks, Lanes: tickLanes, Late: ticksLate, Log: s.log, Work: s.tick,
	})
}

// tick fires schedules that are due, in one transaction: their runs, the messages of these, and the next fire times. A schedule
// with which that fails is fired alone, and left alone for a while if it fails again.
func (s *Service) tick(ctx context.Context, more func()) (next time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tickLimit)
	defer cancel()
	var claimed []*firing
	ctx, end := s.traceTick(ctx)
	defer func() { end(len(claimed), err) }()
	err = s.system.InTx(ctx, func(tx *pg.Tx) error {
		shares, wait, full, err := s.ticksDue.round(ctx, tx, tickBatch)
		if next = wait; err != nil || len(shares) == 0 {
			return err
		}
		if claimed, err = claimSchedules(ctx, tx, shares); err != nil {
			return err
		}
		switch {
		case full || len(claimed) >= tickBatch:
			next = 0
			more()
		case len(claimed) == 0:
			next = tickBusy
		default:
			next = 0
		}
		return s.fireClaimed(ctx, tx, claimed)
	})
	if err == nil || len(claimed) == 0 || passing(err) {
		return next, err
	}
	for _, f := range claimed {
		if err := s.fireAlone(ctx, f); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// passing reports whether an error has nothing to do with what was asked for.
func passing(err error) bool {
	return errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Aborted) || errs.Is(err, errs.DeadlineExceeded)
}

// fireAlone fires one schedule in a transaction of its own. If it cannot be, it is postponed. The error is the database's.
func (s *Service) fireAlone(ctx context.Context, failed *firing) error {
	err := s.system.InTx(ctx, func(tx *pg.Tx) error {
		f, err := claimSchedule(ctx, tx, failed.tenant, failed.schedule.id)
		if err != nil || f == nil {
			return err
		}
		return s.fireClaimed(ctx, tx, []*firing{f})
	})
	if err == nil || passing(err) {
		return err
	}
	s.log.Error("a schedule cannot be fired", zap.String("tenant", failed.tenant), zap.Stringer("schedule", failed.schedule.Name), zap.Error(err))
	return postpone(ctx, s.system, failed, err.Error())
}

// fireClaimed plans and fires schedules that are due. One that cannot be planned is postponed.
func (s *Service) fireClaimed(ctx context.Context, tx *pg.Tx, claimed []*firing) error {
	var ready []*firing
	for _, f := range claimed {
		if err := f.planDue(&s.zones); err != nil {
			s.log.Error("a schedule cannot be planned", zap.String("tenant", f.tenant), zap.Stringer("schedule", f.schedule.Name), zap.Error(err))
			if err := postpone(ctx, tx, f, err.Error()); err != nil {
				return err
			}
			continue
		}
		ready = append(ready, f)
	}
	if len(ready) == 0 {
		return nil
	}
	return s.fire(ctx, tx, ready[0].schedule.now, ready)
}

// planDue plans what is due. A panic is an error, so that one schedule does not end the process.
func (f *firing) planDue(zones *cron.Zones) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if f.unreadable != nil {
		return f.unreadable
	}
	c, err := f.schedule.clock(zones, f.tenant)
	if err != nil {
		return err
	}
	now := f.schedule.now
	f.plan, f.moved = planned(f.schedule, &c, now, func(t Fire) bool { return !t.Due.After(now) }), true
	return nil
}

// backoff is how long a schedule is left alone after one more failure.
func (f *firing) backoff() time.Duration {
	return loop.Delay(f.schedule.faults+1, poisonMinBackoff, poisonMaxBackoff)
}

// fire makes the runs of schedules that tx has locked, starts those that need nothing but the database, and moves the fire times.
func (s *Service) fire(ctx context.Context, tx *pg.Tx, now time.Time, firings []*firing) error {
	if err := countActive(ctx, tx, firings); err != nil {
		return err
	}
	if err := s.takeFirings(ctx, tx, firings); err != nil {
		return err
	}
	var runs, start []*Run
	for _, f := range firings {
		made, err := s.make(ctx, tx, now, f)
		if err != nil {
			return err
		}
		runs = append(runs, made...)
	}
	for _, r := range runs {
		if r.State == Claimed && !r.waits && !r.DueAt.After(now) && r.action.Publish != nil {
			start = append(start, r)
		}
	}
	if err := s.dispatch(ctx, tx, now, start); err != nil {
		return err
	}
	if err := insertRuns(ctx, tx, runs); err != nil {
		return err
	}
	for _, r := range runs {
		if r.State == Claimed && !r.waits {
			s.wakeRuns(tx)
			break
		}
	}
	if err := s.account(ctx, tx, now, runs, firings); err != nil {
		return err
	}
	for _, f := range firings {
		if len(f.cancelled) == 0 {
			continue
		}
		if err := s.announce(ctx, tx, now, f.cancelled); err != nil {
			return err
		}
		if f.schedule.backfills > 0 { // Some of them may have been theirs.
			if err := s.takeTurns(ctx, tx, now, f.tenant, f.schedule); err != nil {
				return err
			}
		}
	}
	return nil
}

// make returns the runs of a firing, each with its number and state.
func (s *Service) make(ctx context.Context, tx *pg.Tx, now time.Time, f *firing) (runs []*Run, err error) {
	if f.missed != nil {
		f.missed.EndedAt = now
		runs = append(runs, f.missed)
	}
	for i := range f.runs {
		r := &f.runs[i]
		runs = append(runs, r)
		switch {
		case f.schedule.Overlap == CancelOther && i < len(f.runs)-1:
			r.State, r.EndedAt = Cancelled, now
		case i-(len(f.runs)-f.wants()) >= f.allowed:
			r.skip(skippedQuota, now)
		case f.schedule.Overlap == CancelOther && f.active > 0:
			cancelled, running, err := s.cancelOthers(ctx, tx, now, f.tenant, f.schedule, "")
			if err != nil {
				return nil, err
			}
			f.cancelled, r.waits = cancelled, running > 0
		default:
			f.overlap(r, now)
		}
		if r.State == Claimed && !r.waits {
			r.NextAt = later(r.DueAt, now)
		}
	}
	for i, r := range runs {
		r.schedule, r.Schedule, r.tenant, r.action, r.n = f.schedule, f.schedule.Name, f.tenant, f.schedule.Action, f.schedule.runs+int64(i)+1
		if r.ID == "" {
			r.ID = newID(now)
		}
	}
	return runs, nil
}

func (r *Run) skip(reason string, now time.Time) {
	r.State, r.SkipReason, r.EndedAt = Skipped, reason, now
}

// overlap decides whether a run starts, waits or is skipped, by the runs that are not over.
func (f *firing) overlap(r *Run, now time.Time) {
	switch p := f.schedule.Overlap; {
	case f.active == 0 || p == Allow:
		if !f.schedule.instant() {
			f.active++
		}
	case p == BufferOne && f.buffered < 1 || p == BufferAll && f.buffered < f.schedule.MaxBuffered:
		r.waits = true
		f.active, f.buffered = f.active+1, f.buffered+1
	case p == Skip:
		r.skip(skippedOverlap, now)
	default:
		r.skip(skippedBuffer, now)
	}
}

// instant reports whether runs are over once they are made, but for attempts that failed.
func (s *Schedule) instant() bool {
	return s.Action.Publish != nil && s.Retry.MaxAttempts == 1 && s.Jitter == 0
}

// wants returns how many runs a firing takes from what its tenant may have a day. With CancelOther all but the last of them
// never begin.
func (f *firing) wants() int {
	if f.schedule.Overlap == CancelOther {
		return min(1, len(f.runs))
	}
	return len(f.runs)
}

// takeFirings takes the runs from what their tenants may have a day: as many as that allows, those of the firings that come first.
func (s *Service) takeFirings(ctx context.Context, tx *pg.Tx, firings []*firing) error {
	wants := map[string]int64{}
	for _, f := range firings {
		wants[f.tenant] += int64(f.wants())
	}
	taken, refused := map[string]int64{}, map[string]error{}
	for _, tenant := range slices.Sorted(maps.Keys(wants)) { // All transactions take in the same order, so they do not deadlock.
		ctx := auth.AsService(ctx, tenant)
		n, err := s.quotas.runs.TakeUpTo(ctx, tx, wants[tenant])
		if err != nil && !errs.Is(err, errs.ResourceExhausted) {
			return err
		}
		if taken[tenant], refused[tenant] = n, err; n > 0 {
			if err := insertRunCount(ctx, tx, n); err != nil {
				return err
			}
		}
	}
	for _, f := range firings {
		f.allowed = int(min(int64(f.wants()), taken[f.tenant]))
		if taken[f.tenant] -= int64(f.allowed); f.allowed < f.wants() {
			f.refused = refused[f.tenant]
		}
	}
	return nil
}

// takeRuns takes n runs from what the tenant of the context may have a day. Errors: ResourceExhausted.
func (s *Service) takeRuns(ctx context.Context, tx *pg.Tx, n int64) error {
	if n == 0 {
		return nil
	}
	if err := s.quotas.runs.Take(ctx, tx, n); err != nil {
		return err
	}
	return insertRunCount(ctx, tx, n)
}

// dispatch publishes the messages of runs and sets what became of them. The error is the database's.
func (s *Service) dispatch(ctx context.Context, tx *pg.Tx, now time.Time, runs []*Run) error {
	batch, sent := make([]message.TenantPublication, 0, len(runs)), make([]*Run, 0, len(runs))
	for _, r := range runs {
		r.Attempt++
		r.StartedAt, r.Worker = now, s.worker
		p, err := r.action.Publish.publication(r)
		if err != nil {
			r.fail(err, now)
			continue
		}
		batch, sent = append(batch, message.TenantPublication{Tenant: r.tenant, Publication: p}), append(sent, r)
	}
	if len(batch) == 0 {
		return nil
	}
	results, err := s.messages.PublishBatchTx(ctx, tx, batch)
	if err != nil {
		return err
	}
	for i, r := range sent {
		if err := results[i].Err; err != nil {
			r.fail(err, now)
			continue
		}
		r.State, r.MessageID, r.EndedAt, r.NextAt, r.Error = Succeeded, results[i].ID, now, time.Time{}, ""
	}
	return nil
}

// fail ends the attempt of a run: with another one after a back-off, or with the run.
func (r *Run) fail(err error, now time.Time) {
	r.Error, r.EndedAt = publicError(err), now
	if errs.Retryable(err) && r.Attempt < r.schedule.Retry.MaxAttempts {
		r.State, r.NextAt = Claimed, now.Add(loop.Delay(r.Attempt, r.schedule.Retry.MinBackoff, r.schedule.Retry.MaxBackoff))
		return
	}
	r.State, r.NextAt = Failed, time.Time{}
}

// claimPast makes the runs of fire times that are past, whether they are due or not, of a schedule whose timing or pause ends. Those
// of a pause are skipped. It moves what it claims from the schedule as it was before to the one that is updated.
func (s *Service) claimPast(ctx context.Context, tx *pg.Tx, updated *Schedule, before Schedule, now time.Time) error {
	c, err := before.clock(&s.zones, auth.TenantOf(ctx))
	if err != nil {
		return nil // A timing that cannot be worked out any longer has no fire times.
	}
	kept := updated.Remaining == before.Remaining
	for !before.nextFire.IsZero() && !before.nextFire.After(now) {
		f := &firing{schedule: &before, tenant: auth.TenantOf(ctx), moved: true}
		if before.Pause == nil {
			f.plan = planned(&before, &c, now, func(t Fire) bool { return !t.Time.After(now) })
		} else {
			f.plan = pausedRange(&before, &c, now)
		}
		if err := s.fire(ctx, tx, now, []*firing{f}); err != nil {
			return err
		}
	}
	updated.nextFire, updated.lastFire, updated.runs = before.nextFire, before.lastFire, before.runs
	if kept {
		updated.Remaining = before.Remaining
	}
	return nil
}
