package message

import (
	"testing"
	"time"
)

// TestFiguresOfManyMessages counts a large queue again when twenty times as long as it took is over, and once for all who ask then.
func TestFiguresOfManyMessages(t *testing.T) {
	var c statsCache
	now := time.Now()
	large, small := tenantQueue{"acme", QueueName{"large"}}, tenantQueue{"acme", QueueName{"small"}}
	c.put(small, Stats{Depth: statsMany - 1}, now, now.Add(time.Minute))
	if _, is := c.get(small, now); is {
		t.Error("a small queue is not counted")
	}
	now = now.Add(100 * time.Millisecond)
	c.put(large, Stats{Depth: 1, DeadLetters: statsMany}, now.Add(-100*time.Millisecond), now)
	if s, is := c.get(large, now.Add(2*time.Second-1)); !is || s.DeadLetters != statsMany {
		t.Errorf("%+v, %v", s, is)
	}
	now = now.Add(2 * time.Second)
	if _, is := c.get(large, now); is {
		t.Error("it is not counted again")
	}
	if _, is := c.get(large, now); !is {
		t.Error("it is counted twice at a time")
	}
	c.forget(large)
	if _, is := c.get(large, now); is {
		t.Error("it is not counted after a purge")
	}
	c.put(large, Stats{Depth: statsMany}, now, now)
	c.put(small, Stats{Depth: statsMany}, now, now.Add(time.Minute))
	if len(c.known) != 1 {
		t.Errorf("%d queues are known", len(c.known))
	}
}
