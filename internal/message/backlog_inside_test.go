package message

import (
	"testing"
	"time"
)

func shares(backlogs []backlog) map[string]int {
	all := map[string]int{}
	for _, b := range backlogs {
		all[b.tenant+"/"+b.queue] = b.share
	}
	return all
}

func TestChooseBacklogs(t *testing.T) {
	due := -time.Second
	seen := []backlog{
		{tenant: "a", queue: "1", due: due},
		{tenant: "a", queue: "2", due: due},
		{tenant: "a", queue: "3", due: due, failures: 3, blocked: -1},
		{tenant: "a", queue: "4", due: due, failures: 3, blocked: 2 * time.Second},
		{tenant: "b", queue: "1", due: due},
		{tenant: "b", queue: "2", due: 3 * time.Second},
	}
	got, next, after := chooseBacklogs(seen, false)
	if next != 2*time.Second || after != (backlog{}) {
		t.Errorf("next in %v, after %v", next, after)
	}
	want := map[string]int{"a/1": relayBatch / 6, "a/2": relayBatch / 6, "a/3": backlogProbe, "b/1": relayBatch / 2}
	for name, share := range shares(got) {
		if want[name] != share {
			t.Errorf("%s has %d, want %d", name, share, want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v are chosen", got)
	}
	if _, next, _ := chooseBacklogs(nil, false); next != farOff {
		t.Errorf("nothing waits, and it is looked again in %v", next)
	}
	if _, next, after := chooseBacklogs(seen[:0], true); next != 0 || after != (backlog{}) {
		t.Errorf("the end of a round: next in %v, after %v", next, after)
	}
}

// After a round that reached its limit, the next one continues after what it saw, whatever was due.
func TestRoundsGoOn(t *testing.T) {
	var seen []backlog
	for i := range maxBacklogs {
		seen = append(seen, backlog{tenant: "a", queue: string(rune('a' + i)), due: time.Hour})
	}
	got, next, after := chooseBacklogs(seen, false)
	if len(got) != 0 || next != 0 || after != seen[maxBacklogs-1].key() {
		t.Errorf("%d are due, next in %v, after %v", len(got), next, after)
	}
}
