package message_test

import (
	"context"
	"testing"
	"time"

	"plinth/internal/message"
)

// A process never handles more messages at a time than its limit, whatever the concurrency of each queue.
func TestHandlersAtATime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Handlers: 2})
	run(t, f.Run)
	entered, leave := make(chan string, 10), make(chan struct{})
	handle := func(_ context.Context, m message.Message) error {
		entered <- string(m.Body)
		<-leave
		return nil
	}
	f.worker(t, time.Second,
		message.HandleBytes("one", handle, message.Concurrency(4)), message.HandleBytes("two", handle, message.Concurrency(4)))
	for _, queue := range []string{"one", "two"} {
		for range 3 {
			f.publish(t, name(t, queue), queue)
		}
	}
	for range 2 {
		<-entered
	}
	select {
	case <-entered:
		t.Error("a third message is handled at the same time")
	case <-time.After(300 * time.Millisecond):
	}
	close(leave)
	for range 4 {
		select {
		case <-entered:
		case <-within(t).Done():
			t.Fatal("the others are not handled")
		}
	}
}
