package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// RunsTopic is the topic of the events of runs that have ended. The routing key is the run's state and the name of its schedule,
// with a dot between them, such as "failed.nightly-report".
const RunsTopic = "schedule.runs"

// eventBatch is how many events one statement publishes.
const eventBatch = 1000

// maxError is the most bytes of an error that a run keeps.
const maxError = 2 << 10

// publicError returns what clients may read of an error: the message of a classified one, all of any other, which is a job's own.
func publicError(err error) string {
	text := err.Error()
	if classified := (*errs.Error)(nil); errors.As(err, &classified) {
		text = classified.Message
	}
	return errs.Shortened(pg.Text(text), maxError)
}

// settle records what became of runs that tx has locked, with their schedules: it lets those start that waited for them, counts
// them and publishes their events.
func (s *Service) settle(ctx context.Context, tx *pg.Tx, now time.Time, runs []*Run) error {
	if len(runs) == 0 {
		return nil
	}
	for _, r := range runs {
		if r.ended() {
			r.EndedAt = now
		}
	}
	if err := updateRuns(ctx, tx, runs); err != nil {
		return err
	}
	promoted, err := promoteWaiting(ctx, tx, runs)
	if err != nil {
		return err
	}
	if promoted {
		s.wakeRuns(tx)
	}
	if err := s.account(ctx, tx, now, runs, nil); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range runs {
		if r.schedule.backfills > 0 && !seen[r.schedule.id] {
			seen[r.schedule.id] = true
			if err := s.takeTurns(ctx, tx, now, r.tenant, r.schedule); err != nil {
				return err
			}
		}
	}
	return nil
}

// tally is what changes in the row of a schedule.
type tally struct {
	Tenant    string     `json:"tenant"`
	ID        string     `json:"id"`
	Runs      int64      `json:"runs"`
	Fired     int64      `json:"fired"`
	Skipped   int64      `json:"skipped"`
	Missed    int64      `json:"missed"`
	Dropped   int64      `json:"dropped"`
	Failed    int64      `json:"failed"`
	Succeeded bool       `json:"succeeded"`
	Failures  int        `json:"failures"` // after the last success
	Used      int64      `json:"used"`     // of the runs that remain
	Moved     bool       `json:"moved"`
	Next      *time.Time `json:"next"`
	Due       *time.Time `json:"due"`
	Last      *time.Time `json:"last"`
	Zone      string     `json:"zone"` // version of the rules of the zone that next was computed by

	schedule *Schedule
	firing   *firing
}

// count adds a run. It is new if it was made now, and else counted when it was made.
func (t *tally) count(r *Run, isNew bool) {
	if isNew {
		t.Runs++
		switch n := max(1, r.MissedCount); r.State {
		case Skipped:
			t.Skipped += n
			if r.SkipReason == skippedBuffer {
				t.Dropped++
			}
		case Missed:
			t.Missed += n
		default:
			t.Fired++
			if r.planned {
				t.Used++
			}
		}
	}
	switch r.State {
	case Succeeded:
		t.Succeeded, t.Failures = true, 0
	case Failed:
		t.Failed++
		t.Failures++
	default:
	}
}

// account counts runs in the rows of their schedules, moves the fire times of firings, pauses schedules that fail, and publishes
// the events of runs that have ended. With firings, the runs are new.
func (s *Service) account(ctx context.Context, tx *pg.Tx, now time.Time, runs []*Run, firings []*firing) error {
	s.metrics.count(tx, now, runs, firings != nil)
	var order []*tally
	tallies := map[string]*tally{}
	of := func(tenant string, sch *Schedule) *tally {
		t := tallies[sch.id]
		if t == nil {
			t = &tally{Tenant: tenant, ID: sch.id, schedule: sch}
			tallies[sch.id], order = t, append(order, t)
		}
		return t
	}
	for _, f := range firings {
		t := of(f.tenant, f.schedule)
		t.firing, t.Moved = f, f.moved
	}
	for _, r := range runs {
		of(r.tenant, r.schedule).count(r, firings != nil)
	}
	for _, t := range order {
		if t.firing != nil {
			t.Zone = s.zones.Version(t.schedule.TimeZone)
			t.schedule.advance(t)
		}
	}
	failing, err := updateTallies(ctx, tx, now, order)
	if err != nil {
		return err
	}
	for _, id := range failing {
		if err := s.pauseFailing(ctx, tx, now, tallies[id]); err != nil {
			return err
		}
	}
	return s.announce(ctx, tx, now, runs)
}

// advance moves a schedule on by what was counted of a firing.
func (s *Schedule) advance(t *tally) {
	s.runs += t.Runs
	if s.Remaining != nil {
		left := *s.Remaining - t.Used
		s.Remaining = &left
	}
	if !t.Moved {
		return
	}
	next := t.firing.next
	if s.Remaining != nil && *s.Remaining <= 0 {
		next = Fire{}
	}
	s.nextFire, s.lastFire = next.Time, later(s.lastFire, t.firing.last)
	t.Next, t.Last = unlessZero(next.Time), unlessZero(s.lastFire)
	if s.Pause == nil {
		t.Due = unlessZero(next.Due)
	}
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// pauseFailing pauses a schedule whose runs failed as often as it allows.
func (s *Service) pauseFailing(ctx context.Context, tx *pg.Tx, now time.Time, t *tally) error {
	paused := *t.schedule
	paused.Pause = &Pause{Note: fmt.Sprintf("%d runs failed in a row", paused.PauseAfterFailures), By: "service", At: now}
	if err := updatePause(ctx, tx, t.Tenant, paused, time.Time{}); err != nil {
		return err
	}
	c := change(ctx, paused, Paused, paused.Pause.Note, now, nil)
	c.By, c.tenant = "service", t.Tenant
	return insertChange(ctx, tx, c)
}

// event is what RunsTopic has of a run.
type event struct {
	Type        string     `json:"type"`
	RunID       string     `json:"run_id"`
	Schedule    string     `json:"schedule"`
	Trigger     Trigger    `json:"trigger"`
	FireTime    time.Time  `json:"fire_time"`
	State       State      `json:"state"`
	Attempt     int        `json:"attempt"`
	SkipReason  string     `json:"skip_reason,omitempty"`
	MissedCount int64      `json:"missed_count,omitempty"`
	MissedUntil *time.Time `json:"missed_until,omitempty"`
	MessageID   string     `json:"message_id,omitempty"`
	Error       string     `json:"error,omitempty"`
	EndTime     time.Time  `json:"end_time"`
}

// announce publishes the events of the runs that have ended, of tenants that have a queue bound to the topic.
func (s *Service) announce(ctx context.Context, tx *pg.Tx, now time.Time, runs []*Run) error {
	var batch []message.TenantPublication
	for _, r := range runs {
		if !r.ended() {
			continue
		}
		to, err := message.ToTopic(RunsTopic, string(r.State)+"."+r.Schedule.name)
		if err != nil {
			return err
		}
		body, err := json.Marshal(event{
			Type: "run_ended", RunID: r.ID, Schedule: r.Schedule.name, Trigger: r.Trigger, FireTime: r.FireAt, State: r.State,
			Attempt: r.Attempt, SkipReason: r.SkipReason, MissedCount: r.MissedCount, MissedUntil: unlessZero(r.MissedUntil),
			MessageID: r.MessageID, Error: r.Error, EndTime: now,
		})
		if err != nil {
			return err
		}
		batch = append(batch, message.TenantPublication{Tenant: r.tenant, Publication: message.Publication{To: to, Body: body, Origin: message.Event}})
	}
	for chunk := range slices.Chunk(batch, eventBatch) {
		if _, err := s.messages.PublishBatchTx(ctx, tx, chunk); err != nil { // That nobody listens is no error of ours.
			return err
		}
	}
	return nil
}
