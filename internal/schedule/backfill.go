package schedule

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	// maxBackfillRuns is the most fire times of a backfill, and maxBackfills how many of a schedule may be under way.
	maxBackfillRuns = 10_000
	maxBackfills    = 10
	// maxConcurrent is the most runs of a backfill at a time that may be asked for.
	maxConcurrent = 1000
	// backfillToken is for how long the token of a dry run can be used.
	backfillTokenAge = time.Hour
)

// Backfill is a range of fire times of a schedule that somebody asked to be run.
type Backfill struct {
	ID            string // UUIDv7
	Schedule      Name
	Version       int64     // of the definition, which its runs have
	Start, End    time.Time // End is excluded
	Overlap       Overlap   // with runs of the schedule that are not its own
	MaxConcurrent int       // of its own runs at a time
	Runs          int       // in all
	Queued        int       // of them, have not had their turn
	Active        int       // of them, have had it and are not over
	By            string    // a principal
	CreatedAt     time.Time
	CancelledBy   string
	EndedAt       time.Time

	scheduleID string
	action     string // of the first run that is queued; empty if none is
	others     int    // runs of the schedule that are under way and not its own
}

// BackfillRequest asks for a backfill, by a range, or by the token of a dry run for which everything else is fixed.
type BackfillRequest struct {
	Start, End    time.Time
	Overlap       Overlap // empty is Allow for a schedule with that policy, else BufferAll
	MaxConcurrent int     // 0 is 1
	DryRun        bool
	Token         string
}

// Backfilled is what a backfill does, or would do.
type Backfilled struct {
	ID    string // empty for a dry run, and if there are no fire times
	Fires []Fire
	Token string // of a dry run
}

// backfillToken pins what a dry run showed.
type backfillToken struct {
	ID         string `json:"i"` // that the backfill will have, so that there is one
	ScheduleID string `json:"s"`
	Version    int64  `json:"v"`
	Start      int64  `json:"a"` // microseconds
	End        int64  `json:"b"`
	Overlap    string `json:"o"`
	Concurrent int    `json:"c"`
	Digest     string `json:"d"` // of the fire times
}

// Backfill runs the fire times of a range that has passed, each once more if it was run already, in their order and up to
// MaxConcurrent at a time. The runs are made at once, with the definition of the schedule as it is; they do not count as remaining
// runs. A dry run changes nothing; its token makes a backfill of exactly the same fire times, once and within an hour, whatever
// becomes of the schedule. Errors: NotFound; InvalidArgument for a range that ends in the future or has more than 10,000 fire times,
// and for a token that is none of this schedule; FailedPrecondition for a token that was used, is too old, or whose fire times the
// rules of the zone have changed; ResourceExhausted if the tenant's runs of the day do not suffice, or 10 backfills are under way.
func (s *Service) Backfill(ctx context.Context, name Name, ask BackfillRequest) (done Backfilled, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		found, now, err := lockSchedule(ctx, tx, name)
		if err != nil {
			return err
		}
		pinned, b, fires, err := s.planBackfill(ctx, tx, found, ask, now)
		if err != nil {
			return err
		}
		done.Fires = fires
		switch {
		case ask.DryRun:
			done.Token, err = b.token(fires)
			return err
		case len(fires) == 0:
			return nil
		}
		done.ID = b.ID
		return s.beginBackfill(ctx, tx, &found, pinned, b, fires, now)
	})
	return done, err
}

// planBackfill returns what is asked for, with the schedule as it is to be run.
func (s *Service) planBackfill(ctx context.Context, tx *pg.Tx, found Schedule, ask BackfillRequest, now time.Time) (pinned Schedule, b Backfill, fires []Fire, err error) {
	pinned = found
	b = Backfill{
		ID: newID(now), Schedule: found.Name, Version: found.Version, Start: microseconds(ask.Start), End: microseconds(ask.End), Overlap: ask.Overlap,
		MaxConcurrent: max(1, ask.MaxConcurrent), By: auth.From(ctx).ID, CreatedAt: now, scheduleID: found.id,
	}
	digest := ""
	if ask.Token != "" {
		if digest, err = b.pin(ask, now); err != nil {
			return pinned, b, nil, err
		}
		if pinned, err = selectVersion(ctx, tx, found, b.Version); err != nil {
			return pinned, b, nil, err
		}
	}
	if b.Overlap == "" {
		if b.Overlap = BufferAll; pinned.Overlap == Allow {
			b.Overlap = Allow
		}
	}
	if err := b.check(now); err != nil {
		return pinned, b, nil, err
	}
	if fires, err = s.firesWithin(pinned, auth.TenantOf(ctx), b.Start, b.End); err != nil {
		return pinned, b, nil, err
	}
	if digest != "" && digest != digestOf(fires) {
		return pinned, b, nil, errs.New(errs.FailedPrecondition, "token: the rules of the time zone changed the fire times; make another dry run")
	}
	b.Runs = len(fires)
	return pinned, b, fires, nil
}

func (b *Backfill) check(now time.Time) error {
	switch {
	case b.Start.IsZero() || b.End.IsZero():
		return errs.New(errs.InvalidArgument, "start_time: it and end_time are needed, or a token")
	case !b.End.After(b.Start):
		return errs.New(errs.InvalidArgument, "end_time: it must be after start_time")
	case b.End.After(now):
		return errs.New(errs.InvalidArgument, "end_time: it is in the future; what is to come fires by itself")
	case b.MaxConcurrent > maxConcurrent:
		return errs.New(errs.InvalidArgument, "max_concurrent: %d is not allowed; 1 to %d are", b.MaxConcurrent, maxConcurrent)
	case !slices.Contains([]Overlap{Skip, BufferOne, BufferAll, CancelOther, Allow}, b.Overlap):
		return errs.New(errs.InvalidArgument, "overlap_policy: it is not known")
	}
	return nil
}

// firesWithin returns the fire times of a range, whether they were fired or not. An interval without a start goes back in its phase.
func (s *Service) firesWithin(sch Schedule, tenant string, start, end time.Time) (fires []Fire, err error) {
	c, err := sch.clock(&s.zones, tenant)
	if err != nil {
		return nil, err
	}
	if past := c.anchor.Sub(start); c.Interval != 0 && c.StartTime.IsZero() && past > 0 {
		c.anchor = c.anchor.Add(-(past/c.Interval + 1) * c.Interval)
	}
	for f, ok := c.plain(start.Add(-time.Microsecond)); ok && f.Time.Before(end); f, ok = c.plain(f.Time) {
		if len(fires) == maxBackfillRuns {
			return nil, errs.New(errs.InvalidArgument, "end_time: the range has more than %d fire times; ask for fewer at a time", maxBackfillRuns)
		}
		f.Due = f.Time
		fires = append(fires, f)
	}
	return fires, nil
}

func digestOf(fires []Fire) string {
	h := sha256.New()
	var micros [8]byte
	for _, f := range fires {
		binary.BigEndian.PutUint64(micros[:], uint64(f.Time.UnixMicro()))
		_, _ = h.Write(micros[:])
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

// token returns the text that makes this backfill.
func (b *Backfill) token(fires []Fire) (string, error) {
	encoded, err := json.Marshal(backfillToken{
		b.ID, b.scheduleID, b.Version, b.Start.UnixMicro(), b.End.UnixMicro(), string(b.Overlap), b.MaxConcurrent, digestOf(fires),
	})
	return base64.RawURLEncoding.EncodeToString(encoded), err
}

// pin makes the backfill the one of a token, and returns the digest of its fire times. What a token says is checked like what a
// client says.
func (b *Backfill) pin(ask BackfillRequest, now time.Time) (digest string, err error) {
	if !ask.Start.IsZero() || !ask.End.IsZero() || ask.Overlap != "" || ask.MaxConcurrent != 0 || ask.DryRun {
		return "", errs.New(errs.InvalidArgument, "token: nothing else can be set with it; it has what its dry run was asked")
	}
	var t backfillToken
	raw, err := base64.RawURLEncoding.DecodeString(ask.Token)
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	id, invalid := uuid.Parse(t.ID)
	if err != nil || invalid != nil || id.Version() != 7 || t.ScheduleID != b.scheduleID || t.Digest == "" {
		return "", errs.New(errs.InvalidArgument, "token: it is not that of a dry run of this schedule")
	}
	seconds, nanos := id.Time().UnixTime()
	if age := now.Sub(time.Unix(seconds, nanos)); age > backfillTokenAge || age < -backfillTokenAge {
		return "", errs.New(errs.FailedPrecondition, "token: it is older than %v; make another dry run", backfillTokenAge)
	}
	b.ID, b.Version, b.Start, b.End = id.String(), t.Version, time.UnixMicro(t.Start).UTC(), time.UnixMicro(t.End).UTC()
	b.Overlap, b.MaxConcurrent = Overlap(t.Overlap), max(1, t.Concurrent)
	return t.Digest, nil
}

// beginBackfill makes the runs of a backfill of a schedule that tx has locked, and starts the first of them.
func (s *Service) beginBackfill(ctx context.Context, tx *pg.Tx, found *Schedule, pinned Schedule, b Backfill, fires []Fire, now time.Time) error {
	if found.backfills >= maxBackfills {
		return errs.New(errs.ResourceExhausted, "the schedule %q has %d backfills under way; no more are allowed", found.Name, found.backfills)
	}
	if created, err := insertBackfill(ctx, tx, b); err != nil || !created {
		if err == nil {
			err = errs.New(errs.FailedPrecondition, "token: it was used already")
		}
		return err
	}
	if err := s.takeRuns(ctx, tx, int64(len(fires))); err != nil {
		return err
	}
	runs := make([]*Run, len(fires))
	for i, f := range fires {
		r := newRun(&pinned, Fire{Time: f.Time, Due: now}, FromBackfill)
		r.ID, r.tenant, r.action, r.planned, r.queued, r.BackfillID, r.n = newID(now), auth.TenantOf(ctx), pinned.Action, false, true, b.ID, found.runs+int64(i)+1
		runs[i] = &r
	}
	for chunk := range slices.Chunk(runs, sweepBatch) {
		if err := insertRuns(ctx, tx, chunk); err != nil {
			return err
		}
	}
	if err := s.account(ctx, tx, now, runs, []*firing{{schedule: found, tenant: auth.TenantOf(ctx)}}); err != nil {
		return err
	}
	return s.takeTurns(ctx, tx, now, auth.TenantOf(ctx), found)
}

// takeTurns starts queued runs of the backfills of a schedule that tx has locked, the oldest backfill first, as far as each
// may have more of them at a time and its overlap policy allows. It ends backfills whose runs are all over.
func (s *Service) takeTurns(ctx context.Context, tx *pg.Tx, now time.Time, tenant string, sch *Schedule) error {
	backfills, err := selectTurns(ctx, tx, tenant, sch.id)
	if err != nil {
		return err
	}
	started := 0
	for i := range backfills {
		b := &backfills[i]
		b.others += started // by those before it
		if b.action != "" {
			n, err := s.takeTurn(ctx, tx, now, tenant, sch, b)
			if err != nil {
				return err
			}
			b.Active, started = b.Active+n, started+n
		}
		if b.action == "" && b.Active == 0 {
			if err := endBackfill(ctx, tx, tenant, b); err != nil {
				return err
			}
		}
	}
	if started > 0 {
		s.wakeRuns(tx)
	}
	return nil
}

// takeTurn starts what may start of a backfill, and returns how many runs that are.
func (s *Service) takeTurn(ctx context.Context, tx *pg.Tx, now time.Time, tenant string, sch *Schedule, b *Backfill) (started int, err error) {
	free := b.MaxConcurrent - b.Active
	if b.action == "publish" { // Messages are published one after the other, whatever their number.
		free = runBatch - b.Active
	}
	if free <= 0 {
		return 0, nil
	}
	if b.others > 0 {
		switch b.Overlap {
		case Skip:
			return 0, s.skipQueued(ctx, tx, now, tenant, sch, b, 0)
		case BufferOne:
			return 0, s.skipQueued(ctx, tx, now, tenant, sch, b, 1)
		case BufferAll:
			return 0, nil
		case CancelOther:
			cancelled, running, err := s.cancelOthers(ctx, tx, now, tenant, sch, b.ID)
			if err == nil {
				err = s.announce(ctx, tx, now, cancelled)
			}
			if err != nil || running > 0 {
				return 0, err
			}
		case Allow:
		}
	}
	return startQueued(ctx, tx, tenant, b, free)
}

// skipQueued skips the runs of a backfill that are queued, but for the first ones, which go on waiting.
func (s *Service) skipQueued(ctx context.Context, tx *pg.Tx, now time.Time, tenant string, sch *Schedule, b *Backfill, but int) error {
	runs, err := endQueued(ctx, tx, tenant, sch, b.ID, Skipped, skippedOverlap, but, now)
	if err != nil {
		return err
	}
	if but == 0 {
		b.action = ""
	}
	return s.announce(ctx, tx, now, runs)
}

// GetBackfill returns a backfill of a schedule. Those that ended are kept for 90 days. Errors: InvalidArgument for an id that is not a
// UUID; NotFound.
func (s *Service) GetBackfill(ctx context.Context, name Name, id string) (Backfill, error) {
	id, err := parseID(id)
	if err != nil {
		return Backfill{}, err
	}
	return selectBackfill(ctx, s.db, name, id)
}

// CancelBackfill ends a backfill: runs that have not begun at once, running ones by their context. Errors: NotFound;
// FailedPrecondition for one that has ended.
func (s *Service) CancelBackfill(ctx context.Context, name Name, id string) (b Backfill, err error) {
	if id, err = parseID(id); err != nil {
		return b, err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		found, now, err := lockSchedule(ctx, tx, name)
		if err != nil {
			return err
		}
		if b, err = selectBackfill(ctx, tx, name, id); err != nil {
			return err
		}
		if !b.EndedAt.IsZero() {
			return errs.New(errs.FailedPrecondition, "id: the backfill %s has ended", id)
		}
		tenant := auth.TenantOf(ctx)
		queued, err := endQueued(ctx, tx, tenant, &found, id, Cancelled, "", 0, now)
		if err != nil {
			return err
		}
		begun, err := s.cancelRuns(ctx, tx, now, tenant, &found, id)
		if err != nil {
			return err
		}
		if err := markBackfillCancelled(ctx, tx, id); err != nil {
			return err
		}
		if err := s.announce(ctx, tx, now, append(queued, begun...)); err != nil {
			return err
		}
		if err := s.takeTurns(ctx, tx, now, tenant, &found); err != nil {
			return err
		}
		b, err = selectBackfill(ctx, tx, name, id)
		return err
	})
	return b, err
}
