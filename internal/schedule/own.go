package schedule

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-co-op/gocron/v2"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

// The service's own jobs (package loop) are schedules that are built in. gocron calls them in each worker, and a lock in Redis, that is
// kept for most of an interval, has one of the workers do the work. It only saves work: without Redis each worker does it, and effects are
// idempotent. Each run is recorded, as those of other schedules are. Administrators see them; nobody changes them, since they are code.

const (
	// ownTenant has the service's own jobs. No tenant can have this name.
	ownTenant = "_service"
	// ownPrefix begins their names, and those of no others.
	ownPrefix = "plinth."
	// ownStop is how long a job may take to end once its context has.
	ownStop = 5 * time.Second
	// ownQuick is how long a run may take and be written only at its end, and ownWrite how long that may take.
	ownQuick = time.Second
	ownWrite = 5 * time.Second
)

func (n Name) builtIn() bool { return strings.HasPrefix(n.name, ownPrefix) }

// Own adds jobs of the service itself. It must be called before Work and the first call.
func (s *Service) Own(jobs ...loop.Job) {
	s.own = append(s.own, jobs...)
	slices.SortFunc(s.own, func(a, b loop.Job) int { return strings.Compare(a.Name, b.Name) })
}

func ownName(j loop.Job) Name { return Name{ownPrefix + j.Name} }

// ownDefinition is what is shown of a job.
func ownDefinition(j loop.Job) Definition {
	return Definition{
		Description: j.About, Timing: Timing{Interval: j.Interval}, Action: Action{Job: &JobRequest{Name: ownPrefix + j.Name}},
		RunRetention: RunRetention{MaxAge: 7 * 24 * time.Hour, MaxCount: 1000},
	}.complete()
}

// reading returns the context by which a schedule is read: for one that is built in the service's, which administrators may have.
func (s *Service) reading(ctx context.Context, name Name) (context.Context, error) {
	if !name.builtIn() {
		return ctx, nil
	}
	if _, known := s.ownJob(name); !known || !auth.From(ctx).IsAdmin() {
		return nil, errNoSchedule(name)
	}
	return auth.AsService(ctx, ownTenant), nil
}

func (s *Service) ownJob(name Name) (loop.Job, bool) {
	i := slices.IndexFunc(s.own, func(j loop.Job) bool { return ownName(j) == name })
	if i < 0 {
		return loop.Job{}, false
	}
	return s.own[i], true
}

// errBuiltIn returns the error of changing a schedule that is built in. Whoever must not see it is told that there is none.
func errBuiltIn(ctx context.Context, name Name) error {
	if !auth.From(ctx).IsAdmin() {
		return errNoSchedule(name)
	}
	return errs.New(errs.FailedPrecondition, "name: the schedule %q is built in: it can be neither changed nor triggered", name)
}

// ownSchedules returns the schedules that are built in, after a name, for who may see them. One that has not run yet has no row.
func (s *Service) ownSchedules(ctx context.Context, after string) (all []Schedule, err error) {
	if !auth.From(ctx).IsAdmin() {
		return nil, nil
	}
	rows, _, err := selectSchedules(auth.AsService(ctx, ownTenant), s.db, ownPrefix, len(s.own)+100, maxPageBytes)
	if err != nil {
		return nil, err
	}
	for _, j := range s.own {
		if ownName(j).name <= after {
			continue
		}
		found := Schedule{Name: ownName(j), Definition: ownDefinition(j), Version: 1, UpdatedBy: "service"}
		if i := slices.IndexFunc(rows, func(r Schedule) bool { return r.Name == found.Name }); i >= 0 {
			rows[i].Definition = found.Definition // As it is in this release.
			found = rows[i]
		}
		all = append(all, found)
	}
	return all, nil
}

// merged returns the first of two lists of schedules by name, up to size. more is whether there are more of the first list, which
// then may have names before those of the second that are after its last.
func merged(list, own []Schedule, more bool, size int) ([]Schedule, bool) {
	if more {
		last := list[len(list)-1].Name.name
		own = slices.DeleteFunc(own, func(s Schedule) bool { return s.Name.name > last })
	}
	all := slices.Concat(list, own)
	slices.SortFunc(all, func(a, b Schedule) int { return strings.Compare(a.Name.name, b.Name.name) })
	if len(all) > size {
		return all[:size], true
	}
	return all, more
}

// ensureOwn makes the rows of the service's own jobs, and returns their ids by the names of the jobs. It waits for a database that is
// away; the error is that of a context that has ended.
func (s *Service) ensureOwn(ctx context.Context) (map[string]string, error) {
	backoff := loop.Backoff{Min: time.Second, Max: time.Minute}
	for {
		ids, err := upsertOwn(ctx, s.system, s.own)
		if err == nil || ctx.Err() != nil {
			return ids, ctx.Err()
		}
		s.log.Warn("the service's own jobs do not start, trying again", zap.Error(err))
		if !loop.Sleep(ctx, backoff.Next()) {
			return nil, ctx.Err()
		}
	}
}

// runOwn runs the service's own jobs until ctx ends.
func (s *Service) runOwn(ctx context.Context) error {
	if len(s.own) == 0 {
		return nil
	}
	ids, err := s.ensureOwn(ctx)
	if err != nil {
		return nil // The context has ended.
	}
	scheduler, err := gocron.NewScheduler(gocron.WithStopTimeout(ownStop))
	if err != nil {
		return fmt.Errorf("start the service's own jobs: %w", err)
	}
	var adding sync.WaitGroup
	failed := make([]error, len(s.own))
	for i, j := range s.own {
		adding.Go(func() { // The locker asks whether Redis is there.
			defer observe.LogPanic(s.log)
			_, failed[i] = scheduler.NewJob(gocron.DurationJob(j.Interval), gocron.NewTask(func() { s.runOwnJob(ctx, ids[j.Name], j) }),
				gocron.WithName(ids[j.Name]), gocron.WithDistributedJobLocker(newOwnLocker(s.redis, j.Interval)),
				gocron.WithSingletonMode(gocron.LimitModeReschedule), gocron.WithStartAt(gocron.WithStartImmediately()))
		})
	}
	adding.Wait()
	for i, err := range failed {
		if err != nil {
			return fmt.Errorf("start the job %q: %w", s.own[i].Name, err)
		}
	}
	scheduler.Start()
	<-ctx.Done()
	if err := scheduler.Shutdown(); err != nil {
		s.log.Warn("jobs of the service were cut off", zap.Error(err))
	}
	return nil
}

// runOwnJob runs one of the service's own jobs, and records it: once it has ended, and before that if it takes a while.
func (s *Service) runOwnJob(ctx context.Context, id string, j loop.Job) {
	if ctx.Err() != nil {
		return
	}
	run := ownRun{schedule: id, id: newID(time.Now()), job: j, worker: s.worker, began: time.Now(), state: Running}
	done := make(chan error, 1)
	go func() { done <- s.callOwn(ctx, j) }()
	var err error
	select {
	case err = <-done:
	case <-time.After(ownQuick):
		s.recordOwn(ctx, run)
		err = <-done
	}
	if run.state = Succeeded; err != nil {
		run.state, run.err = Failed, publicError(err)
	}
	s.recordOwn(ctx, run)
	// A database that is away is reported elsewhere.
	if err != nil && !errs.Is(err, errs.Unavailable) && ctx.Err() == nil {
		s.log.Warn("a job of the service failed, trying again in its next interval", zap.String("job", j.Name), zap.Error(err))
	}
}

// recordOwn writes how far a run of one of the service's own jobs is.
func (s *Service) recordOwn(ctx context.Context, run ownRun) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownWrite)
	defer cancel()
	if err := writeOwn(ctx, s.system, run); err != nil && !errs.Is(err, errs.Unavailable) {
		s.log.Error("a run of a job of the service is not recorded", zap.String("job", run.job.Name), zap.Error(err))
	}
}

// callOwn calls a job. A panic is an error.
func (s *Service) callOwn(ctx context.Context, j loop.Job) (err error) {
	ctx, end := s.traceOwn(ctx, j.Name)
	defer func() { end(err) }()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return j.Run(ctx)
}
