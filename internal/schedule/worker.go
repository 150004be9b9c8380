package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	runBatch = 250
	// maxLosses is how many workers a run may lose: one that ends its process each time must not do so for ever.
	maxLosses = 3
	endLimit  = 10 * time.Second // of writing what became of a run
)

// Reasons why the context of a job ends.
var (
	errCancelled = errors.New("the run was cancelled")
	errLost      = errors.New("the lease of the run is lost")
	errStopped   = errors.New("the worker stops")
)

// newRuns returns the loop that starts runs, and ends those whose worker is lost. Every worker takes its share of what is due.
func (s *Service) newRuns() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "runs", Channel: channel, Payload: newRuns, Lanes: 1, Late: runsLate, Log: s.log, Work: s.step, Shared: true,
	})
}

// step starts runs that are due, as many as this process may have at a time.
func (s *Service) step(ctx context.Context, more func()) (next time.Duration, err error) {
	if ctx.Err() != nil {
		return farOff, nil
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), tickLimit)
	defer cancel()
	var started []*Run
	err = s.system.InTx(bounded, func(tx *pg.Tx) error {
		shares, wait, _, err := s.runsDue.round(bounded, tx, runBatch)
		if next = wait; err != nil || len(shares) == 0 {
			return err
		}
		free := s.at.free()
		runs, now, err := claimRuns(bounded, tx, shares, free, s.jobs.names())
		if err != nil {
			return err
		}
		if next = tickBusy; len(runs) > 0 {
			next = 0
		} else if free == 0 {
			next = s.lease / 3
		}
		started, err = s.advance(bounded, tx, now, runs)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, r := range started {
		s.start(ctx, r)
	}
	return next, nil
}

// advance takes runs that tx has locked one step further, and returns those that begin an attempt.
func (s *Service) advance(ctx context.Context, tx *pg.Tx, now time.Time, runs []*Run) (started []*Run, err error) {
	var publish, settled []*Run
	for _, r := range runs {
		if r.State == Running { // Its lease is over.
			r.losses++
			switch {
			case r.cancelled:
				r.State, r.Error, r.NextAt = Cancelled, errCancelled.Error(), time.Time{}
			case r.schedule.OnWorkerLoss == LossFail || r.losses > maxLosses:
				r.State, r.Error, r.NextAt = Failed, fmt.Sprintf("the worker %q was lost", r.Worker), time.Time{}
			}
			if r.ended() {
				settled = append(settled, r)
				continue
			}
		}
		if r.unreadable != nil {
			s.log.Error("a run cannot be begun", zap.String("tenant", r.tenant), zap.Stringer("schedule", r.Schedule), zap.String("run", r.ID), zap.Error(r.unreadable))
			r.State, r.Error, r.NextAt = Failed, publicError(r.unreadable), time.Time{}
			settled = append(settled, r)
			continue
		}
		if r.action.Publish != nil {
			publish, settled = append(publish, r), append(settled, r)
			continue
		}
		started = append(started, r)
	}
	if err := s.dispatch(ctx, tx, now, publish); err != nil {
		return nil, err
	}
	if err := s.settle(ctx, tx, now, settled); err != nil {
		return nil, err
	}
	return started, beginRuns(ctx, tx, started, s.worker, s.lease)
}

// attempt is a run that this process works at.
type attempt struct {
	Attempt
	run  *Run
	log  *zap.Logger
	kept *keptLines
	end  context.CancelCauseFunc
	sure time.Time // until when the lease is this process's for certain, by its monotonic clock
}

// attempts are the runs that this process works at.
type attempts struct {
	mu    sync.Mutex
	most  int
	all   map[string]*attempt // by the id of the run
	heard chan struct{}       // somebody cancelled a run
	done  sync.WaitGroup
}

func newAttempts(most int) *attempts {
	return &attempts{most: most, all: map[string]*attempt{}, heard: make(chan struct{}, 1)}
}

func (a *attempts) hear() { loop.Signal(a.heard) }

func (a *attempts) free() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.most - len(a.all)
}

// add adds an attempt. An earlier one of the same run, whose lease ended, is lost.
func (a *attempts) add(at *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if earlier := a.all[at.RunID]; earlier != nil {
		earlier.end(errLost)
	}
	a.all[at.RunID] = at
}

func (a *attempts) remove(at *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all[at.RunID] == at {
		delete(a.all, at.RunID)
	}
}

func (a *attempts) list() (all []*attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.all {
		all = append(all, at)
	}
	return all
}

// start works at a run whose attempt has begun.
func (s *Service) start(ctx context.Context, r *Run) {
	lines := newRunLog()
	a := &attempt{run: r, kept: lines.kept, sure: time.Now().Add(s.lease), Attempt: Attempt{
		RunID: r.ID, Schedule: r.Schedule, Trigger: r.Trigger, FireTime: r.FireAt, Number: r.Attempt, Arguments: r.arguments(), Token: r.token,
	}}
	a.log = zap.New(zapcore.NewTee(lines, s.log.With(zap.String("tenant", r.tenant), zap.Stringer("schedule", r.Schedule), zap.String("run", r.ID)).Core()))
	ctx = context.WithValue(auth.AsService(context.WithoutCancel(ctx), r.tenant), attemptKey{}, a)
	ctx, a.end = context.WithCancelCause(ctx)
	s.at.add(a)
	s.at.done.Go(func() {
		defer observe.LogPanic(s.log)
		defer a.end(nil)
		timed, cancel := context.WithTimeout(ctx, r.schedule.AttemptTimeout)
		defer cancel()
		timed, end := s.traceRun(timed, r)
		err := s.perform(timed, r)
		end(err)
		if err != nil && errors.Is(timed.Err(), context.DeadlineExceeded) {
			err = errs.Wrap(err, errs.DeadlineExceeded, "the attempt took longer than attempt_timeout, which is %v", r.schedule.AttemptTimeout)
		}
		s.finish(ctx, a, err)
	})
}

// perform does what a run is for.
func (s *Service) perform(ctx context.Context, r *Run) error {
	if r.action.HTTP != nil {
		return s.send(ctx, r)
	}
	j, err := s.jobs.find(r.action.job())
	if err != nil {
		return err
	}
	return j.call(ctx)
}

// finish writes what became of an attempt, unless its run was lost, and makes room for another one.
func (s *Service) finish(ctx context.Context, a *attempt, failed error) {
	defer func() {
		s.at.remove(a)
		s.runs.Wake()
	}()
	cause := context.Cause(ctx)
	if errors.Is(cause, errLost) {
		s.log.Warn("a run was lost", zap.String("tenant", a.run.tenant), zap.Stringer("schedule", a.Schedule), zap.String("run", a.RunID))
		return
	}
	backoff := loop.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for deadline := time.Now().Add(endLimit); ; {
		err := s.writeEnd(context.WithoutCancel(ctx), a, failed, cause)
		if err == nil || !passing(err) || time.Now().After(deadline) {
			if err != nil {
				s.log.Error("what became of a run is not written", zap.String("run", a.RunID), zap.Error(err))
			}
			return
		}
		loop.Sleep(context.WithoutCancel(ctx), backoff.Next())
	}
}

// writeEnd writes what became of an attempt. One that has lost its run changes nothing.
func (s *Service) writeEnd(ctx context.Context, a *attempt, failed, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	return s.system.InTx(ctx, func(tx *pg.Tx) error {
		now, held, err := lockAttempt(ctx, tx, a)
		if err != nil || !held {
			return err
		}
		lines, cut := a.kept.taken()
		if err := updateOutput(ctx, tx, a.run, lines, cut); err != nil {
			return err
		}
		r := *a.run
		r.NextAt, r.EndedAt = time.Time{}, now
		switch {
		case failed == nil:
			r.State, r.Error = Succeeded, ""
		case errors.Is(cause, errCancelled):
			r.State, r.Error = Cancelled, publicError(failed)
		case errors.Is(cause, errStopped): // The attempt does not count.
			r.State, r.NextAt, r.Attempt, r.EndedAt = Claimed, now, r.Attempt-1, time.Time{}
		default:
			r.fail(failed, now)
		}
		if r.State == Claimed {
			s.wakeRuns(tx)
		}
		return s.settle(ctx, tx, now, []*Run{&r})
	})
}

// keep renews the leases of this process's runs, and ends those that are cancelled or lost, until ctx ends. Then it lets them go on
// for the drain.
func (s *Service) keep(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(s.lease / 3)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.at.heard:
		}
		timer.Stop()
		s.renew(ctx)
	}
	ended := make(chan struct{})
	go func() { s.at.done.Wait(); close(ended) }()
	deadline := time.NewTimer(s.drain)
	defer deadline.Stop()
	again := time.NewTicker(s.lease / 3)
	defer again.Stop()
	for {
		select {
		case <-ended:
			return
		case <-again.C:
			s.renew(context.WithoutCancel(ctx))
		case <-s.at.heard:
			s.renew(context.WithoutCancel(ctx))
		case <-deadline.C:
			for _, a := range s.at.list() {
				a.end(errStopped)
			}
		}
	}
}

// renew renews the leases of all runs that this process works at, in one statement.
func (s *Service) renew(ctx context.Context) {
	all := s.at.list()
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.lease/3)
	defer cancel()
	begun := time.Now()
	kept, cancelled, err := renewLeases(ctx, s.system, all, s.lease)
	for _, a := range all {
		switch {
		case err == nil && slices.Contains(cancelled, a.RunID):
			a.end(errCancelled)
		case err == nil && !slices.Contains(kept, a.RunID), err != nil && time.Now().After(a.sure):
			a.end(errLost)
		case err == nil:
			a.sure = begun.Add(s.lease)
		}
	}
	if err != nil {
		s.log.Warn("the leases of runs are not renewed", zap.Int("runs", len(all)), zap.Error(err))
	}
}
