package schedule

import (
	"hash/fnv"
	"strings"
	"time"

	"plinth/internal/cron"
	"plinth/internal/errs"
)

// Limits of a timing.
const (
	minInterval = time.Second
	maxInterval = 366 * 24 * time.Hour
	maxJitter   = 24 * time.Hour
)

// Timing says when a schedule fires. Exactly one of Cron, Interval and At is set.
type Timing struct {
	Cron      string        `json:"cron,omitempty"`
	Interval  time.Duration `json:"interval,omitempty"` // real time, counted from StartTime or else from when the schedule was made
	At        time.Time     `json:"at,omitzero"`
	TimeZone  string        `json:"time_zone,omitempty"` // of Cron; empty is UTC
	DST       cron.Policy   `json:"dst,omitzero"`
	Jitter    time.Duration `json:"jitter,omitempty"`
	StartTime time.Time     `json:"start_time,omitzero"` // no fire time is before it
	EndTime   time.Time     `json:"end_time,omitzero"`   // all fire times are before it
}

// normal returns the timing with times as PostgreSQL has them, in whole microseconds.
func (t Timing) normal() Timing {
	t.At, t.StartTime, t.EndTime = microseconds(t.At), microseconds(t.StartTime), microseconds(t.EndTime)
	return t
}

func microseconds(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Truncate(time.Microsecond).UTC()
}

// Fire is a fire time: when a run is planned, and when it is due, which its jitter moves.
type Fire struct {
	Time, Due time.Time
	Kind      cron.Kind
}

// clock computes the fire times of a schedule.
type clock struct {
	Timing
	spec   cron.Spec
	zone   *time.Location
	anchor time.Time // that intervals are counted from
	seed   uint64    // of the jitter
}

// newClock returns the clock of a timing. made is when its schedule was. name is what the jitter depends on. Errors: InvalidArgument.
func newClock(zones *cron.Zones, t Timing, made time.Time, name ...string) (c clock, err error) {
	t = t.normal()
	c = clock{Timing: t, zone: time.UTC, anchor: made.Truncate(time.Microsecond)}
	if !t.StartTime.IsZero() {
		c.anchor = t.StartTime
	}
	if err := t.check(); err != nil {
		return clock{}, err
	}
	if t.Cron != "" {
		if c.spec, err = cron.Parse(t.Cron); err != nil {
			return clock{}, err
		}
		if t.TimeZone != "" {
			if c.zone, err = zones.Load(t.TimeZone); err != nil {
				return clock{}, err
			}
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.Join(name, "\x00")))
	c.seed = h.Sum64()
	return c, nil
}

// check validates all but the cron expression and its zone.
func (t Timing) check() error {
	set := 0
	for _, is := range []bool{t.Cron != "", t.Interval != 0, !t.At.IsZero()} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return errs.New(errs.InvalidArgument, "cron: exactly one of cron, interval and at must be set, not %d", set)
	case t.Interval != 0 && (t.Interval < minInterval || t.Interval > maxInterval || t.Interval%time.Microsecond != 0):
		return errs.New(errs.InvalidArgument, "interval: %v is not allowed: 1 s to 366 days are, in whole microseconds", t.Interval)
	case t.Jitter < 0 || t.Jitter > maxJitter:
		return errs.New(errs.InvalidArgument, "jitter: %v is not allowed: 0 to 24 h are", t.Jitter)
	case !t.EndTime.IsZero() && !t.StartTime.IsZero() && !t.EndTime.After(t.StartTime):
		return errs.New(errs.InvalidArgument, "end_time: it must be after start_time")
	case t.Cron == "" && t.TimeZone != "":
		return errs.New(errs.InvalidArgument, "time_zone: only a cron expression has one; interval and at are moments")
	case t.Cron == "" && t.DST != cron.Policy{}:
		return errs.New(errs.InvalidArgument, "dst_policy: only a cron expression has one; interval and at are moments")
	case !t.At.IsZero() && !(t.StartTime.IsZero() && t.EndTime.IsZero()):
		return errs.New(errs.InvalidArgument, "at: it goes with neither start_time nor end_time")
	}
	return nil
}

// next returns the first fire time strictly after a moment. It reports false if there is none.
func (c *clock) next(after time.Time) (Fire, bool) {
	f, ok := c.plain(after)
	if !ok {
		return Fire{}, false
	}
	f.Due = c.due(f.Time)
	return f, true
}

// plain is next without a due time.
func (c *clock) plain(after time.Time) (f Fire, ok bool) {
	if c.StartTime.After(after) {
		after = c.StartTime.Add(-time.Microsecond)
	}
	switch {
	case !c.At.IsZero():
		f.Time, ok = c.At, c.At.After(after)
	case c.Interval != 0:
		f.Time, ok = c.nextInterval(after), true
	default:
		var found cron.Fire
		found, ok = c.spec.Next(after, c.zone, c.DST)
		f.Time, f.Kind = found.Time.UTC(), found.Kind
	}
	return f, ok && (c.EndTime.IsZero() || f.Time.Before(c.EndTime))
}

func (c *clock) nextInterval(after time.Time) time.Time {
	anchor, step := c.anchor.UnixMicro(), c.Interval.Microseconds()
	past := after.UnixMicro() - anchor
	if past < 0 {
		return time.UnixMicro(anchor).UTC()
	}
	return time.UnixMicro(anchor + (past/step+1)*step).UTC()
}

// due returns when the run of a fire time is due: up to the jitter later, but before the next fire time.
func (c *clock) due(fire time.Time) time.Time {
	if c.Jitter == 0 {
		return fire
	}
	span := c.Jitter.Microseconds() + 1
	if next, ok := c.plain(fire); ok {
		span = min(span, next.Time.Sub(fire).Microseconds())
	}
	// The finalizer of SplitMix64 spreads fire times that are close to each other.
	x := c.seed + uint64(fire.UnixMicro())*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return fire.Add(time.Duration(x%uint64(span)) * time.Microsecond)
}
