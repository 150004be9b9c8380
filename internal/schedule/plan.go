package schedule

import (
	"time"
)

const (
	// onTime is how late a fire time may be and still count as such, and not as one that is caught up.
	onTime = 10 * time.Second
	// planRuns and planSteps bound how many runs, and how many fire times, one pass of a schedule claims. The next pass goes on.
	planRuns  = 100
	planSteps = 100_000
)

// plan is what becomes of the fire times of a schedule that have passed.
type plan struct {
	missed *Run  // stands for those that are not to run, which come before all others
	runs   []Run // in the order of their fire times
	next   Fire  // zero if there is none
	last   time.Time
}

// planned returns the plan of a schedule at a moment. passed reports whether a fire time's turn has come; it is true of all up to
// some fire time. It never reads the clock of this process.
func planned(s *Schedule, c *clock, now time.Time, passed func(Fire) bool) (p plan) {
	f, ok := Fire{Time: s.nextFire, Due: c.due(s.nextFire)}, true
	held, holds := Fire{}, false // the latest that may yet turn out to be missed
	left := planRuns
	if s.Remaining != nil {
		left = int(min(int64(left), *s.Remaining))
	}
	for step := 0; ok && step < planSteps && len(p.runs) < left && passed(f); step++ {
		p.last = f.Time
		late := now.Sub(f.Due)
		switch {
		case late > s.CatchUpWindow || late > onTime && s.CatchUp == CatchUpNone:
			p.miss(held, holds)
			p.miss(f, true)
			holds = false
		case s.CatchUp == CatchUpAll:
			p.runs = append(p.runs, newRun(s, f, triggerOf(late)))
		default:
			p.miss(held, holds)
			held, holds = f, true
		}
		f, ok = c.next(f.Time)
	}
	if holds {
		if ok && passed(f) { // The pass ends before the latest fire time is known.
			p.miss(held, true)
		} else {
			p.runs = append(p.runs, newRun(s, held, triggerOf(now.Sub(held.Due))))
		}
	}
	if ok {
		p.next = f
	}
	if p.missed != nil {
		p.missed.Version = s.Version
	}
	return p
}

func triggerOf(late time.Duration) Trigger {
	if late > onTime {
		return FromCatchUp
	}
	return FromSchedule
}

// miss adds a fire time to those that are not to run.
func (p *plan) miss(f Fire, is bool) {
	switch {
	case !is:
	case p.missed == nil:
		p.missed = &Run{Trigger: FromSchedule, FireAt: f.Time, DueAt: f.Due, State: Missed, MissedCount: 1, MissedUntil: f.Time, planned: true}
	default:
		p.missed.MissedCount++
		p.missed.MissedUntil = f.Time
	}
}

// pausedRange returns the plan of a schedule that was paused: one skipped run for the fire times up to now. Of a pause that was too
// long for one pass the next fire time has passed as well.
func pausedRange(s *Schedule, c *clock, now time.Time) (p plan) {
	f, ok := Fire{Time: s.nextFire, Due: s.nextFire}, true
	for step := 0; ok && step < planSteps && !f.Time.After(now); step++ {
		p.miss(f, true)
		p.last = f.Time
		f, ok = c.plain(f.Time)
	}
	if r := p.missed; r != nil {
		r.Version, r.State, r.SkipReason = s.Version, Skipped, skippedPaused
	}
	if ok {
		f.Due = c.due(f.Time)
		p.next = f
	}
	return p
}
