package cron

import (
	"iter"
	"time"
)

// Reason says why a matching wall time does not fire.
type Reason uint8

// Values of Reason.
const (
	InGap     Reason = iota // the clock leaves it out
	Collapsed               // the clock leaves it out, and one fire after the gap stands for it and others
	Repeated                // the clock shows it again, and it has fired before
)

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case Collapsed:
		return "the clock leaves this time out; the fire after the gap stands for it"
	case Repeated:
		return "the clock shows this time again; it has fired the first time"
	default:
		return "the clock leaves this time out"
	}
}

// Skip is a matching wall time that does not fire.
type Skip struct {
	Local  string    // the wall time, such as 2025-03-30T02:30:00
	Time   time.Time // the end of the gap, or when the clock shows the time again
	Reason Reason
}

// Skipped returns the matching wall times that do not fire in a zone, of gaps and repetitions that are after an instant and not
// after another one. There may be as many as a gap has seconds. Of those that collapse, all but the first are among them.
func (s Spec) Skipped(after, until time.Time, loc *time.Location, p Policy) iter.Seq[Skip] {
	return func(yield func(Skip) bool) {
		shift, twice := s.rules(p)
		last := min(until.Unix(), horizon(after.Unix()))
		for t := after.Unix() + 1; t <= last; {
			st := stretchAt(loc, t)
			if t == st.start && !s.inGap(loc, st, shift, yield) {
				return
			}
			if !twice && !s.repeated(loc, st, t, last, yield) {
				return
			}
			t = st.end
		}
	}
}

// inGap yields the wall times of the gap before a stretch, if there is one. It reports false to stop.
func (s *Spec) inGap(loc *time.Location, st stretch, shift bool, yield func(Skip) bool) bool {
	reason := InGap
	wall, ok := s.nextWall(st.start + stretchAt(loc, st.start-1).offset)
	if shift {
		reason = Collapsed
		wall, ok = s.nextWall(wall + 1)
	}
	for ; ok && wall < st.start+st.offset; wall, ok = s.nextWall(wall + 1) {
		if !yield(Skip{local(wall), time.Unix(st.start, 0).In(loc), reason}) {
			return false
		}
	}
	return true
}

// repeated yields the wall times that a stretch shows again between two instants. It reports false to stop.
func (s *Spec) repeated(loc *time.Location, st stretch, from, last int64, yield func(Skip) bool) bool {
	last = min(last, st.end-1)
	for wall, ok := s.nextWall(from + st.offset); ok && wall-st.offset <= last; wall, ok = s.nextWall(wall + 1) {
		if kind, _ := st.pass(loc, wall); kind != SecondPass {
			break
		}
		if !yield(Skip{local(wall), time.Unix(wall-st.offset, 0).In(loc), Repeated}) {
			return false
		}
	}
	return true
}

func local(wall int64) string { return time.Unix(wall, 0).UTC().Format("2006-01-02T15:04:05") }
