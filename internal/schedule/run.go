package schedule

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// Trigger is what a run came from.
type Trigger string

// Values of Trigger.
const (
	FromSchedule Trigger = "schedule"
	FromCatchUp  Trigger = "catch_up"
	FromTrigger  Trigger = "manual"
	FromBackfill Trigger = "backfill"
)

// State is how far a run is.
type State string

// Values of State.
const (
	Claimed   State = "claimed" // not begun
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Skipped   State = "skipped"
	Cancelled State = "cancelled"
	Missed    State = "missed" // stands for fire times that passed without a worker
)

// Reasons why runs are skipped.
const (
	skippedOverlap = "overlap"
	skippedBuffer  = "buffer_full"
	skippedQuota   = "quota"
	skippedPaused  = "paused"
)

// Run is what becomes of a fire time, or of a range of them.
type Run struct {
	ID          string // UUIDv7
	Schedule    Name
	Trigger     Trigger
	FireAt      time.Time // planned; the first of a range
	DueAt       time.Time
	State       State
	Attempt     int // that began
	Version     int64
	Arguments   json.RawMessage // of a trigger
	SkipReason  string
	MissedCount int64
	MissedUntil time.Time
	MessageID   string
	HTTP        *Answer
	Worker      string
	StartedAt   time.Time
	EndedAt     time.Time
	NextAt      time.Time // of the next attempt, while it waits for that
	Error       string
	Log         []LogLine
	LogCut      bool
	BackfillID  string

	queued    bool      // waits for its turn in its backfill
	schedule  *Schedule // whose version may be a later one
	tenant    string
	n         int64 // numbers the runs of a schedule
	planned   bool  // its fire time is the schedule's, and no other run may have it
	waits     bool  // for other runs of the schedule
	losses    int   // of its workers
	token     int64 // of the attempt
	cancelled bool  // somebody asked for that
	action    Action
	// unreadable is why a run that was claimed cannot be begun; nil if it can.
	unreadable error
}

// Answer is what an HTTP request was answered.
type Answer struct {
	Status int
	Body   []byte
}

// LogLine is what a job wrote.
type LogLine struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
}

// newRun returns a run that starts when it is due.
func newRun(s *Schedule, f Fire, from Trigger) Run {
	return Run{Schedule: s.Name, schedule: s, Trigger: from, FireAt: f.Time, DueAt: f.Due, State: Claimed, Version: s.Version, planned: true}
}

// newID returns a UUIDv7 of a moment of the database's clock.
func newID(now time.Time) string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16|0x7000|rand.Uint64N(1<<12))
	binary.BigEndian.PutUint64(id[8:], 1<<63|rand.Uint64()>>2)
	return id.String()
}

// idAfter returns a UUIDv7 that is later than another one, and no later than it need be.
func idAfter(id uuid.UUID) string {
	high := binary.BigEndian.Uint64(id[:8])
	moment := (high>>16<<12 | high&0xfff) + 1 // without the digit of the version
	binary.BigEndian.PutUint64(id[:8], moment>>12<<16|0x7000|moment&0xfff)
	return id.String()
}

func (r *Run) ended() bool { return r.State != Claimed && r.State != Running }

// RunFilter selects runs: those that match all that is set.
type RunFilter struct {
	States     []State
	Trigger    Trigger
	Start, End time.Time // of the fire time; End is excluded
	BackfillID string
}

// ListRuns lists the runs of a schedule, the latest first, without their logs and answers, in pages as resource.List describes
// them. Errors: NotFound; InvalidArgument for a token that is not of this list.
func (s *Service) ListRuns(ctx context.Context, name Name, match RunFilter, size int, token string) (runs []Run, next string, err error) {
	ctx, err = s.reading(ctx, name)
	if err != nil {
		return nil, "", err
	}
	found, err := selectSchedule(ctx, s.db, name)
	if err != nil {
		return nil, "", err
	}
	list := resource.List[Run, int64]{
		Of:       []any{"runs", auth.TenantOf(ctx), found.id, match.States, match.Trigger, match.Start.UnixMicro(), match.End.UnixMicro(), match.BackfillID},
		Start:    1<<63 - 1,
		Position: func(r Run) string { return strconv.FormatInt(r.n, 10) },
		Parse:    func(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) },
		Select: resource.OneMore(func(before int64, limit int) ([]Run, error) {
			return selectRuns(ctx, s.db, found, match, before, limit)
		}),
	}
	return list.Page(size, token)
}

// GetRun returns a run with its log. Errors: InvalidArgument for an id that is not a UUID; NotFound.
func (s *Service) GetRun(ctx context.Context, name Name, id string) (Run, error) {
	id, err := parseID(id)
	if err != nil {
		return Run{}, err
	}
	if ctx, err = s.reading(ctx, name); err != nil {
		return Run{}, err
	}
	return selectRun(ctx, s.db, name, id)
}

func parseID(id string) (string, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return "", errs.New(errs.InvalidArgument, "id: %.64q is not a UUID", id)
	}
	return parsed.String(), nil
}

// CancelRun ends a run: one that has not begun at once, a running one by its context. Errors: NotFound; FailedPrecondition for a
// run that has ended.
func (s *Service) CancelRun(ctx context.Context, name Name, id string) (r Run, err error) {
	return s.changeRun(ctx, name, id, func(tx *pg.Tx, found *Schedule, r Run, now time.Time) error {
		switch {
		case r.ended():
			return errs.New(errs.FailedPrecondition, "id: the run %s has ended: it is %s", id, r.State)
		case r.State == Running:
			s.wakeCancelled(tx)
			return markCancelled(ctx, tx, []string{id})
		default:
			r.State = Cancelled
			return s.settle(ctx, tx, now, []*Run{&r})
		}
	})
}

// RetryRun makes one more attempt of a run that failed, was cancelled or was skipped. Errors: NotFound; FailedPrecondition for
// any other run; ResourceExhausted if the tenant's runs of the day are used up.
func (s *Service) RetryRun(ctx context.Context, name Name, id string) (Run, error) {
	return s.changeRun(ctx, name, id, func(tx *pg.Tx, found *Schedule, r Run, now time.Time) error {
		if !slices.Contains([]State{Failed, Cancelled, Skipped}, r.State) || r.MissedCount > 0 {
			return errs.New(errs.FailedPrecondition, "id: the run %s is %s; one that failed, was cancelled or was skipped can be tried again", id, r.State)
		}
		if r.action == (Action{}) {
			return errs.New(errs.FailedPrecondition, "id: the definition that the run %s had is not kept any longer", id)
		}
		if err := s.takeRuns(ctx, tx, 1); err != nil {
			return err
		}
		s.wakeRuns(tx)
		return restartRun(ctx, tx, id, now)
	})
}

// changeRun changes a run in a transaction that has locked its schedule, and returns it as it is then.
func (s *Service) changeRun(ctx context.Context, name Name, id string, change func(*pg.Tx, *Schedule, Run, time.Time) error) (r Run, err error) {
	if id, err = parseID(id); err != nil {
		return Run{}, err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		found, now, err := lockSchedule(ctx, tx, name)
		if err != nil {
			return err
		}
		if r, err = lockRun(ctx, tx, &found, id); err != nil {
			return err
		}
		if err := change(tx, &found, r, now); err != nil {
			return err
		}
		r, err = selectRun(ctx, tx, name, id)
		return err
	})
	return r, err
}

// Triggered says how to trigger a schedule.
type Triggered struct {
	Arguments json.RawMessage // a JSON object; empty is none
	Overlap   Overlap         // empty is the schedule's
	Key       string          // makes triggering again harmless for 24 hours; empty is none
}

// Trigger makes a run now, whether the schedule is paused or not. With a key that was used before it returns the run that was
// made then. Errors: NotFound; InvalidArgument for arguments that the job does not take; ResourceExhausted if the tenant's runs of
// the day are used up.
func (s *Service) Trigger(ctx context.Context, name Name, t Triggered) (r Run, err error) {
	if !pg.IsText(t.Key) {
		return r, errs.New(errs.InvalidArgument, "idempotency_key: valid UTF-8 without U+0000 is allowed")
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		found, now, err := lockSchedule(ctx, tx, name)
		if err != nil {
			return err
		}
		if err := found.Action.checkArguments(s.jobs, t.Arguments); err != nil {
			return err
		}
		r = newRun(&found, Fire{Time: now, Due: now}, FromTrigger)
		r.ID, r.tenant, r.planned, r.Arguments = newID(now), auth.TenantOf(ctx), false, t.Arguments
		if t.Key != "" {
			first, err := useTriggerKey(ctx, tx, found.id, t.Key, r.ID)
			if err != nil {
				return err
			}
			if first != r.ID {
				r, err = selectRun(ctx, tx, name, first)
				return err
			}
		}
		if t.Overlap != "" {
			found.Overlap = t.Overlap
		}
		f := &firing{schedule: &found, tenant: r.tenant, plan: plan{runs: []Run{r}}}
		if err := s.fire(ctx, tx, now, []*firing{f}); err != nil {
			return err
		}
		if f.refused != nil {
			return f.refused
		}
		r, err = selectRun(ctx, tx, name, r.ID)
		return err
	})
	return r, err
}
