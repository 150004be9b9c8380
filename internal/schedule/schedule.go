package schedule

import (
	"context"
	"regexp"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/cron"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

var scheduleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$`)

const maxName = 100

// Name is a valid name of a schedule: 1 to 100 letters, digits, '_', '-' and single '.', the first one a letter or digit.
type Name struct{ name string }

// ParseName returns name as a Name. Errors: InvalidArgument.
func ParseName(name string) (Name, error) {
	if len(name) > maxName || !scheduleName.MatchString(name) {
		return Name{}, errs.New(errs.InvalidArgument, "name: %.100q is not a name of a schedule: "+
			"1 to 100 letters, digits, '_', '-' and single '.', the first one a letter or digit", name)
	}
	return Name{name}, nil
}

func (n Name) String() string { return n.name }

// Schedule is a plan of runs.
type Schedule struct {
	Name Name
	Definition
	Version   int64
	CreatedAt time.Time
	UpdatedAt time.Time
	UpdatedBy string
	Remaining *int64 // runs; nil is no limit
	Pause     *Pause
	Next      []time.Time // fire times
	Error     string      // why the next fire time is not known
	Running   []Run       // of GetSchedule alone
	Stats     *Stats      // likewise

	id       string
	nextFire time.Time // zero if there is none
	lastFire time.Time // the latest fire time that was claimed; zero if none was
	runs     int64     // that it had until now, which numbers them
	faults   int       // of the service with it, one after the other
	now      time.Time // when it was locked

	backfills int // that have not ended
}

// Pause says why a schedule does not fire.
type Pause struct {
	Note, By string
	At       time.Time
}

// Stats are the numbers of a schedule since it was made.
type Stats struct{ Fired, Skipped, Missed, Dropped, Failed, Buffered int64 }

func (s *Schedule) clock(zones *cron.Zones, tenant string) (clock, error) {
	return newClock(zones, s.Timing, s.CreatedAt, tenant, s.Name.name)
}

// Create makes a schedule. Zero fields of the definition are replaced with defaults. Errors: InvalidArgument names the field;
// AlreadyExists; ResourceExhausted if the tenant may have no more schedules.
func (s *Service) Create(ctx context.Context, name Name, d Definition) (made Schedule, err error) {
	if name.builtIn() {
		return made, errs.New(errs.InvalidArgument, "name: %q begins with %q, as the service's own schedules do", name, ownPrefix)
	}
	d = d.complete()
	tenant := auth.TenantOf(ctx)
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		now, err := selectNow(ctx, tx)
		if err != nil {
			return err
		}
		c, err := s.check(d, now, tenant, name)
		if err != nil {
			return err
		}
		first, ok := c.next(now)
		if !ok && d.At.IsZero() {
			return errs.New(errs.InvalidArgument, "end_time: there is no fire time before it")
		}
		if !d.At.IsZero() { // One that has passed fires now, or is missed.
			first = Fire{Time: d.At, Due: c.due(d.At)}
		}
		if err := s.quotas.schedules.Take(ctx, tx, 1); err != nil {
			return err
		}
		made = Schedule{Name: name, Definition: s.seal(tenant, d), Version: 1, CreatedAt: now, UpdatedAt: now, UpdatedBy: auth.From(ctx).ID,
			Remaining: d.RemainingRuns, id: uuid.Must(uuid.NewV7()).String(), nextFire: first.Time}
		created, err := insertSchedule(ctx, tx, &s.zones, made, first.Due)
		if err != nil {
			return err
		}
		if !created {
			return errs.New(errs.AlreadyExists, "name: the schedule %q exists already", name)
		}
		s.wakeTicks(tx)
		return insertChange(ctx, tx, change(ctx, made, Created, "", now, fieldsOf(Definition{}, d)))
	})
	if err != nil {
		return Schedule{}, err
	}
	return s.withNext(ctx, made)
}

// Get returns a schedule with its next fire times, its running runs and its numbers. Errors: NotFound.
func (s *Service) Get(ctx context.Context, name Name) (Schedule, error) {
	ctx, err := s.reading(ctx, name)
	if err != nil {
		return Schedule{}, err
	}
	found, err := selectSchedule(ctx, s.db, name)
	if err != nil {
		return Schedule{}, err
	}
	stats, err := selectStats(ctx, s.db, found.id)
	if err != nil {
		return Schedule{}, err
	}
	found.Stats = &stats
	if found.Running, err = selectRunning(ctx, s.db, found, maxRunning); err != nil {
		return Schedule{}, err
	}
	return s.withNext(ctx, found)
}

// maxRunning is the most running runs that Get returns.
const maxRunning = 100

// List lists schedules by name, for administrators also those that are built in, in pages as resource.List describes them, of about 2 MiB. Errors: InvalidArgument for a token
// that is not of this list.
func (s *Service) List(ctx context.Context, size int, token string) (schedules []Schedule, next string, err error) {
	list := resource.List[Schedule, Name]{
		Of:       []any{"schedules", auth.TenantOf(ctx), auth.From(ctx).IsAdmin()},
		Position: func(s Schedule) string { return s.Name.name },
		Parse:    ParseName,
		Select: func(after Name, size int) ([]Schedule, bool, error) {
			found, more, err := selectSchedules(ctx, s.db, after.name, size, maxPageBytes)
			if err != nil {
				return nil, false, err
			}
			own, err := s.ownSchedules(ctx, after.name)
			found, more = merged(found, own, more, size)
			for i := range found {
				if found[i].Pause == nil && !found[i].nextFire.IsZero() {
					found[i].Next = []time.Time{found[i].nextFire}
				}
			}
			return found, more, err
		},
	}
	return list.Page(size, token)
}

// maxPageBytes is the size at which a page ends early, so that a reply stays within the 4 MiB that gRPC clients accept.
const maxPageBytes = 2 << 20

// shownTimes is how many fire times a schedule is shown with.
const shownTimes = 5

// withNext adds the next fire times.
func (s *Service) withNext(ctx context.Context, found Schedule) (Schedule, error) {
	n := shownTimes
	if found.Name.builtIn() { // Its next one depends on the last.
		n = 1
	}
	if found.Pause != nil || found.nextFire.IsZero() || found.Remaining != nil && *found.Remaining == 0 {
		return found, nil
	}
	c, err := found.clock(&s.zones, auth.TenantOf(ctx))
	if err != nil {
		return found, nil // It is found.Error.
	}
	if found.Remaining != nil {
		n = int(min(int64(n), *found.Remaining))
	}
	found.Next = append(found.Next, found.nextFire)
	for f, ok := c.next(found.nextFire); ok && len(found.Next) < n; f, ok = c.next(f.Time) {
		found.Next = append(found.Next, f.Time)
	}
	return found, nil
}

// Update changes a schedule. change is called with the current definition; fields that it sets to zero are replaced with
// defaults. version is the one that the schedule must have; 0 is any. Errors: NotFound; InvalidArgument as in Create;
// FailedPrecondition if the schedule has another version.
func (s *Service) Update(ctx context.Context, name Name, version int64, edit func(*Definition)) (updated Schedule, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		before, now, err := lockSchedule(ctx, tx, name)
		if err != nil {
			return err
		}
		if version != 0 && version != before.Version {
			return errs.New(errs.FailedPrecondition, "version: the schedule %q has version %d, not %d", name, before.Version, version)
		}
		var fields []string
		if updated, fields, err = s.edited(ctx, before, edit); err != nil {
			return err
		}
		if len(fields) == 0 {
			updated = before
			return nil
		}
		updated.Version, updated.UpdatedAt, updated.UpdatedBy = before.Version+1, now, auth.From(ctx).ID
		due, err := s.replan(ctx, tx, &updated, before, now)
		if err != nil {
			return err
		}
		if err := updateSchedule(ctx, tx, &s.zones, updated, due); err != nil {
			return err
		}
		s.wakeTicks(tx)
		return insertChange(ctx, tx, change(ctx, updated, Updated, "", now, fields))
	})
	if err != nil {
		return Schedule{}, err
	}
	return s.withNext(ctx, updated)
}

// edited returns a schedule with another definition, which is valid, and the names of the fields that differ.
func (s *Service) edited(ctx context.Context, before Schedule, edit func(*Definition)) (after Schedule, fields []string, err error) {
	tenant := auth.TenantOf(ctx)
	was := before.Definition
	was.Action, err = s.open(tenant, before.Action)
	after = before
	after.Definition.Action = before.Action.shown()
	after.Definition.RemainingRuns = before.Remaining
	edit(&after.Definition)
	after.Definition = after.Definition.complete()
	after.Action = after.Action.keepSecrets(was.Action)
	if err != nil && after.Action.lacks(before.Action) {
		return after, nil, err
	}
	after.Remaining = after.Definition.RemainingRuns
	if after.Definition.RemainingRuns == before.Remaining {
		after.Definition.RemainingRuns = before.Definition.RemainingRuns
	}
	if _, err := s.check(after.Definition, before.CreatedAt, tenant, before.Name); err != nil {
		return after, nil, err
	}
	fields = fieldsOf(was, after.Definition)
	after.Definition = s.seal(tenant, after.Definition)
	return after, fields, nil
}

// replan sets the next fire time of a schedule whose definition changed, and returns when it is due. Fire times of the timing
// before that are past are claimed, whether they are due or not; the new timing fires later than now, and later than all that
// were claimed.
func (s *Service) replan(ctx context.Context, tx *pg.Tx, updated *Schedule, before Schedule, now time.Time) (due time.Time, err error) {
	c, err := updated.clock(&s.zones, auth.TenantOf(ctx))
	if err != nil {
		return due, err
	}
	same := updated.Timing == before.Timing && before.Error == ""
	if !same && updated.Pause == nil {
		if err := s.claimPast(ctx, tx, updated, before, now); err != nil {
			return due, err
		}
	}
	switch {
	case same && !before.nextFire.IsZero():
		due = c.due(before.nextFire)
	case !same || before.Remaining != nil && *before.Remaining == 0: // It had no runs left.
		next, ok := c.next(later(now, updated.lastFire))
		if !updated.At.IsZero() && updated.At.After(updated.lastFire) && !same {
			next, ok = Fire{Time: updated.At, Due: c.due(updated.At)}, true
		}
		if !ok && updated.At.IsZero() && !same {
			return due, errs.New(errs.InvalidArgument, "end_time: there is no fire time before it")
		}
		updated.nextFire, due = next.Time, next.Due
	}
	if updated.Pause != nil {
		due = time.Time{}
	}
	return due, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Delete removes a schedule. Its runs that have not ended are cancelled; all of them are removed later. Errors: NotFound.
func (s *Service) Delete(ctx context.Context, name Name) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		found, now, err := lockSchedule(ctx, tx, name)
		if err != nil {
			return err
		}
		ended, err := deleteSchedule(ctx, tx, &found, now)
		if err != nil {
			return err
		}
		if err := s.announce(ctx, tx, now, ended); err != nil {
			return err
		}
		s.wakeCancelled(tx)
		return insertChange(ctx, tx, change(ctx, found, Deleted, "", now, nil))
	})
}
