package lock

import (
	"cmp"
	"slices"
)

// ProcessState is what a process holds of locks at the moment.
type ProcessState struct {
	Held    int           `json:"held"` // leases under which it works itself
	Waiting []WaiterState `json:"waiting"`
}

// WaiterState is a lock that calls to this process wait for.
type WaiterState struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	Calls  int    `json:"calls"`
}

// ProcessState returns what this process holds.
func (s *Service) ProcessState() any {
	state := ProcessState{Waiting: []WaiterState{}}
	s.keeper.mu.Lock()
	state.Held = len(s.keeper.held)
	s.keeper.mu.Unlock()
	s.waiters.mu.Lock()
	for p, w := range s.waiters.places {
		state.Waiting = append(state.Waiting, WaiterState{p.tenant, p.name.name, w.calls})
	}
	s.waiters.mu.Unlock()
	slices.SortFunc(state.Waiting, func(a, b WaiterState) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return state
}
