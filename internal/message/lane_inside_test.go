package message

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A lane tells how many messages each destination has, and of the oldest of them; of many destinations those with the most messages.
func TestLaneState(t *testing.T) {
	t.Parallel()
	at := func(seconds int64) string {
		id := uuid.Must(uuid.NewV7())
		for i := range 6 {
			id[i] = byte(seconds * 1000 >> (40 - 8*i))
		}
		return id.String()
	}
	var batch []*envelope
	for n := range laneDestinations + 5 {
		for range n + 1 {
			batch = append(batch, &envelope{tenant: "acme", id: at(int64(1000 + len(batch))), to: Destination{topic: "t" + strconv.Itoa(n)}})
		}
	}
	batch = append(batch, &envelope{tenant: "acme", id: at(7), to: Destination{topic: "t24"}}, &envelope{tenant: "other", id: "foreign", to: Destination{topic: "t24"}})
	state := laneState(batch)
	if state.Messages != len(batch) || len(state.Destinations) != laneDestinations || state.Others != 6 {
		t.Fatalf("%d messages, %d destinations and %d others", state.Messages, len(state.Destinations), state.Others)
	}
	if d := state.Destinations[0]; d.Tenant != "acme" || d.Topic != "t24" || d.Messages != 26 || !d.PublishTime.Equal(time.Unix(7, 0)) {
		t.Errorf("%+v", d)
	}
	if d := state.Destinations[1]; d.Topic != "t23" || d.Messages != 24 {
		t.Errorf("%+v", d)
	}
	if d := laneState([]*envelope{{tenant: "other", id: "foreign"}}).Destinations[0]; !d.PublishTime.IsZero() {
		t.Errorf("an id without a time: %+v", d)
	}
}

// TestOneLaneHasATopic has two lanes look at the same backlogs. Both may have what is to a queue, or to this service itself.
func TestOneLaneHasATopic(t *testing.T) {
	t.Parallel()
	r := &relay{topics: map[backlog]bool{}}
	queue, own, topic := backlog{tenant: "a", queue: "q", share: 1}, backlog{tenant: "a", topic: ownPrefix + "x", share: 1}, backlog{tenant: "a", topic: "news", share: 1}
	all := func() []backlog { return []backlog{queue, own, topic} }
	left, topics, release := r.reserve(all())
	if !slices.Equal(left, all()) || topics != 1 {
		t.Errorf("the first lane has %v, %d topics", left, topics)
	}
	left, topics, second := r.reserve(all())
	if !slices.Equal(left, []backlog{queue, own}) || topics != 0 {
		t.Errorf("the second lane has %v, %d topics", left, topics)
	}
	second()
	release()
	if left, _, _ := r.reserve(all()); !slices.Equal(left, all()) {
		t.Errorf("afterwards a lane has %v", left)
	}
}
