package schedule

import (
	"cmp"
	"slices"
)

// ProcessState is what a process holds of schedules at the moment.
type ProcessState struct {
	Fires bool           `json:"fires"` // it leads the firing of schedules
	Free  int            `json:"free"`  // how many more runs it may work at
	Runs  []AttemptState `json:"runs"`  // that it works at
}

// AttemptState is a run that this process works at.
type AttemptState struct {
	Tenant   string `json:"tenant"`
	Schedule string `json:"schedule"`
	Run      string `json:"run"`
	Attempt  int    `json:"attempt"`
}

// ProcessState returns what this process holds.
func (s *Service) ProcessState() any {
	state := ProcessState{Fires: s.ticks.Leads(), Free: s.at.free(), Runs: []AttemptState{}}
	s.at.mu.Lock()
	for id, at := range s.at.all {
		state.Runs = append(state.Runs, AttemptState{at.run.tenant, at.Schedule.name, id, at.Number})
	}
	s.at.mu.Unlock()
	slices.SortFunc(state.Runs, func(a, b AttemptState) int { return cmp.Compare(a.Run, b.Run) })
	return state
}
