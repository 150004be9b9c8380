package message

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// laneDestinations is how many destinations a lane tells of.
const laneDestinations = 20

// LaneState is the batch that a lane of the relay works on.
type LaneState struct {
	StartTime    time.Time          `json:"start_time"`
	Messages     int                `json:"messages"`
	Destinations []DestinationState `json:"destinations"` // those with the most messages
	Others       int                `json:"other_destinations"`
}

// DestinationState is what a batch has for a queue or a topic.
type DestinationState struct {
	Tenant      string    `json:"tenant"`
	Queue       string    `json:"queue,omitempty"`
	Topic       string    `json:"topic,omitempty"`
	Messages    int       `json:"messages"`
	PublishTime time.Time `json:"oldest_publish_time,omitzero"` // of the oldest
}

// lanes are the batches that the relay of this process works on.
type lanes struct {
	mu      sync.Mutex
	batches map[*LaneState]bool
}

// add adds a batch, which the function that it returns removes.
func (l *lanes) add(batch []*envelope) (remove func()) {
	state := laneState(batch)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches[state] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.batches, state)
	}
}

func laneState(batch []*envelope) *LaneState {
	of := map[backlog]*DestinationState{}
	for _, m := range batch {
		published := Message{ID: m.id}.PublishedAt()
		d := of[m.backlog()]
		if d == nil {
			d = &DestinationState{Tenant: m.tenant, Queue: m.to.queue.name, Topic: m.to.topic, PublishTime: published}
			of[m.backlog()] = d
		}
		d.Messages++
		if !published.IsZero() && (d.PublishTime.IsZero() || published.Before(d.PublishTime)) {
			d.PublishTime = published
		}
	}
	state := &LaneState{StartTime: time.Now().UTC(), Messages: len(batch), Destinations: make([]DestinationState, 0, len(of))}
	for _, d := range of {
		state.Destinations = append(state.Destinations, *d)
	}
	slices.SortFunc(state.Destinations, func(a, b DestinationState) int {
		return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Topic, b.Topic))
	})
	if more := len(state.Destinations) - laneDestinations; more > 0 {
		state.Others, state.Destinations = more, state.Destinations[:laneDestinations]
	}
	return state
}

// all returns the batches, the one that was begun first comes first.
func (l *lanes) all() []LaneState {
	l.mu.Lock()
	states := make([]LaneState, 0, len(l.batches))
	for state := range l.batches {
		states = append(states, *state)
	}
	l.mu.Unlock()
	slices.SortFunc(states, func(a, b LaneState) int { return a.StartTime.Compare(b.StartTime) })
	return states
}
