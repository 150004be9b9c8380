package cron

import (
	"math"
	"time"
)

// Gap says what becomes of wall times that the clock leaves out.
type Gap uint8

// Values of Gap.
const (
	GapDefault Gap = iota // as Debian's cron: skip where the minute or hour begins with *, else shift
	GapSkip               // they do not fire
	GapShift              // they fire together, once, at the first instant after the gap
)

// Overlap says what becomes of wall times that the clock shows twice.
type Overlap uint8

// Values of Overlap.
const (
	OverlapDefault Overlap = iota // as Debian's cron: twice where the minute or hour begins with *, else once
	OverlapOnce                   // they fire in the first pass
	OverlapTwice                  // they fire in every pass
)

// Policy says what happens when the clocks are changed. The zero Policy is the rule of Debian's cron.
type Policy struct {
	Gap     Gap
	Overlap Overlap
}

// Kind says how a fire time stands to the wall clock.
type Kind uint8

// Values of Kind.
const (
	Normal     Kind = iota
	Shifted         // the first instant after a gap, for wall times in it; also where it matches by itself as well
	FirstPass       // a wall time that comes again
	SecondPass      // a wall time that has been before
)

// Fire is a time at which an expression fires: a whole second, in the zone that was asked for.
type Fire struct {
	Time time.Time
	Kind Kind
}

// Next returns the first time strictly after an instant at which the expression fires in a zone. It reports false where there is
// none until the end of the year 9999. It allocates nothing.
func (s Spec) Next(after time.Time, loc *time.Location, p Policy) (Fire, bool) {
	shift, twice := s.rules(p)
	t := after.Unix() + 1
	for end := horizon(t); t <= end; {
		st := stretchAt(loc, t)
		if shift && t == st.start && s.shiftsTo(loc, st) {
			return Fire{time.Unix(t, 0).In(loc), Shifted}, true
		}
		wall, ok := s.nextWall(t + st.offset)
		if !ok {
			return Fire{}, false
		}
		if at := wall - st.offset; at < st.end {
			kind, until := st.pass(loc, wall)
			if kind == SecondPass && !twice {
				t = min(until, st.end)
				continue
			}
			return Fire{time.Unix(at, 0).In(loc), kind}, true
		}
		// Nothing is left of this stretch. The wall times of all that follow are after its end less reach, and so is what they match.
		if wall, ok = s.nextWall(st.end + st.offset - reach); !ok {
			return Fire{}, false
		}
		t = max(st.end, wall-st.offset-reach)
	}
	return Fire{}, false
}

// rules returns what a policy means for the expression.
func (s *Spec) rules(p Policy) (shift, twice bool) {
	shift = p.Gap == GapShift || p.Gap == GapDefault && !s.realTime
	twice = p.Overlap == OverlapTwice || p.Overlap == OverlapDefault && s.realTime
	return shift, twice
}

// shiftsTo reports whether a stretch begins after a gap that has matching wall times in it.
func (s *Spec) shiftsTo(loc *time.Location, st stretch) bool {
	before := stretchAt(loc, st.start-1).offset
	if before >= st.offset {
		return false
	}
	wall, ok := s.nextWall(st.start + before)
	return ok && wall < st.start+st.offset
}

// horizon returns the instant at which a search from t may end. From 2038 on all zones follow rules for a year, so that zone and
// calendar together repeat themselves after 400 years: what has not fired by then, such as a time in the gap of each year, never does.
func horizon(t int64) int64 {
	const (
		year2038  = 2145916800
		cycle     = 146097 * daySeconds
		year10000 = 253402300800
	)
	return min(max(t, year2038)+cycle, year10000-1)
}

// stretch is a time in which the offset of a zone from UTC is constant. The next one may have the same offset.
type stretch struct {
	start, end int64 // the end is not in it
	offset     int64
}

// reach is more than any two offsets of a zone differ by: what lies farther away than this from an instant is not shown on the
// clock again because of it. The offsets of the zone database are within -16 and +16 hours.
const reach = 36 * 60 * 60

// stretchAt returns the stretch of a zone that an instant is in.
func stretchAt(loc *time.Location, t int64) stretch {
	at := time.Unix(t, 0).In(loc)
	_, offset := at.Zone()
	st := stretch{math.MinInt64, math.MaxInt64, int64(offset)}
	start, end := at.ZoneBounds()
	if !start.IsZero() {
		st.start = start.Unix()
	}
	if !end.IsZero() {
		st.end = end.Unix()
	}
	// After the last change that the data of a zone lists, ZoneBounds returns the beginning of the year, also where that change was in it.
	for !start.IsZero() && st.start%daySeconds == 0 {
		_, end := time.Unix(st.start, 0).In(loc).ZoneBounds()
		if end.IsZero() || end.Unix() <= st.start || end.Unix() > t {
			break
		}
		st.start = end.Unix()
	}
	if st.end <= t { // On 31 December of leap years ZoneBounds returns that day's beginning (golang/go#81583).
		st.end = floorDiv(t, daySeconds)*daySeconds + daySeconds
	}
	return st
}

// pass returns the kind of a wall time of the stretch, and for a second pass the instant at which the wall times that have been
// before end, unless the stretch does before.
func (st stretch) pass(loc *time.Location, wall int64) (kind Kind, until int64) {
	at := wall - st.offset
	for start := st.start; start > at-reach; {
		before := stretchAt(loc, start-1)
		if earlier := wall - before.offset; before.start <= earlier && earlier < start {
			return SecondPass, start + before.offset - st.offset
		}
		start = before.start
	}
	for end := st.end; end < at+reach; {
		after := stretchAt(loc, end)
		if later := wall - after.offset; end <= later && later < after.end {
			return FirstPass, 0
		}
		end = after.end
	}
	return Normal, 0
}
