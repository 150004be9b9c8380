package channel

import (
	"cmp"
	"maps"
	"slices"
)

// ProcessState is what a process holds of channels at the moment.
type ProcessState struct {
	Servers []ServerState `json:"servers"`
	Tenants []TenantState `json:"tenants"`
}

// ServerState is a server that the process listens to.
type ServerState struct {
	Address   string `json:"address"`
	Connected bool   `json:"connected"`
}

// TenantState is what the process hears of the channels of a tenant.
type TenantState struct {
	Tenant   string         `json:"tenant"`
	Live     bool           `json:"live"` // Redis delivers
	Kept     int            `json:"kept"` // messages in memory, for streams that are behind
	Streams  int            `json:"streams"`
	Channels int            `json:"channels"` // that streams name
	Patterns int            `json:"patterns"`
	Most     map[string]int `json:"most"` // the channels with the most streams
}

// mostShown is how many channels of a tenant are named.
const mostShown = 10

// ProcessState returns what this process holds.
func (s *Service) ProcessState() any {
	state := ProcessState{Servers: s.links.state(), Tenants: []TenantState{}}
	s.mu.Lock()
	feeds := slices.Collect(maps.Values(s.feeds))
	s.mu.Unlock()
	for _, f := range feeds {
		state.Tenants = append(state.Tenants, f.state())
	}
	slices.SortFunc(state.Tenants, func(a, b TenantState) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return state
}

func (l *links) state() []ServerState {
	states := []ServerState{}
	l.mu.Lock()
	for _, link := range l.byAddr {
		session, _ := link.up()
		states = append(states, ServerState{link.node.Options().Addr, session != nil})
	}
	l.mu.Unlock()
	slices.SortFunc(states, func(a, b ServerState) int { return cmp.Compare(a.Address, b.Address) })
	return states
}

func (f *feed) state() TenantState {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := TenantState{
		Tenant: f.tenant, Live: f.live, Kept: len(f.recent), Streams: len(f.readers), Channels: len(f.names), Patterns: len(f.patterns),
		Most: map[string]int{},
	}
	names := slices.SortedFunc(maps.Keys(f.names), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(f.names[b]), len(f.names[a])), cmp.Compare(a, b))
	})
	for _, name := range names[:min(len(names), mostShown)] {
		t.Most[name] = len(f.names[name])
	}
	return t
}
