package message

import (
	"cmp"
	"slices"
)

// ProcessState is what a process holds of messages at the moment.
type ProcessState struct {
	Relays        bool                `json:"relays"` // it leads the relays
	Lanes         int                 `json:"relay_lanes"`
	Relaying      []LaneState         `json:"relaying"` // what is in the lanes
	Subscriptions []SubscriptionState `json:"subscriptions"`
	Polls         []PollState         `json:"polls"`
}

// SubscriptionState is a subscription of this process: of a client's stream, of a handler, of a push, or of the polls of a queue.
type SubscriptionState struct {
	Tenant      string `json:"tenant"`
	Queue       string `json:"queue"`
	Credit      int    `json:"credit"`
	Outstanding int64  `json:"outstanding"`
}

// PollState is a queue that calls of Pull to this process wait for.
type PollState struct {
	Tenant string `json:"tenant"`
	Queue  string `json:"queue"`
	Calls  int    `json:"calls"`
	Wanted int    `json:"wanted"` // messages that they may still take
}

// ProcessState returns what this process holds.
func (s *Service) ProcessState() any {
	state := ProcessState{Relays: s.relay.Leads(), Lanes: s.relay.Lanes, Relaying: s.lanes.all(), Subscriptions: []SubscriptionState{}, Polls: s.pullers.state()}
	s.rates.eachSource(func(src *source) {
		state.Subscriptions = append(state.Subscriptions, SubscriptionState{src.tenant, src.queue.name, int(src.credit.Load()), src.outstanding.Load()})
	})
	slices.SortFunc(state.Subscriptions, func(a, b SubscriptionState) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Queue, b.Queue))
	})
	return state
}

// state returns the queues that polls wait for.
func (ps *pullers) state() []PollState {
	states := []PollState{}
	ps.mu.Lock()
	for q, p := range ps.queues {
		states = append(states, PollState{q.tenant, q.queue.name, p.polls.Len(), p.wanted})
	}
	ps.mu.Unlock()
	slices.SortFunc(states, func(a, b PollState) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Queue, b.Queue))
	})
	return states
}
