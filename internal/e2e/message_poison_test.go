package e2e

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// A message that kills every process that handles it becomes a dead letter, and the others are handled.
func poisoned(t *testing.T, sys *system) {
	effects := newEffects(t, sys.env["DATABASE_URL"])
	client := grpcClient(t, sys.url)
	const queue, attempts = "poisoned", 3
	if _, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: queue, MaxAttempts: attempts,
		MinBackoff: durationpb.New(time.Second)}); err != nil {
		t.Fatal(err)
	}
	healthy := func(from int) (ids []string) {
		for i := range 10 {
			ids = append(ids, publish(t, client, queue, fmt.Sprint("healthy ", from+i))...)
		}
		return ids
	}
	ids := healthy(0)
	poisonous := publish(t, client, queue, poison)[0]
	ids = append(ids, healthy(10)...)

	deaths := 0
	p := startConsumer(t, sys.env, queue)
	dead := func() []*messagev1.DeadLetter {
		res, err := client.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: queue})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetDeadLetters()
	}
	// On Postgres, messages that a dead process held come again after 15 s.
	within(t, 3*patience, "the poison is a dead letter, and all others are handled", func() bool {
		select {
		case <-p.done: // Its supervisor starts it again.
			deaths++
			p = startConsumer(t, sys.env, queue)
		default:
		}
		seen, _ := effects.seen(t)
		return len(dead()) > 0 && len(seen) >= len(ids)
	})
	seen, _ := effects.seen(t)
	for _, id := range ids {
		if n := seen[place{id, queue}]; n != 1 {
			t.Errorf("the message %s took effect %d times", id, n)
		}
	}
	letters := dead()
	if len(letters) != 1 || letters[0].GetMessageId() != poisonous || letters[0].GetAttempts() != attempts {
		t.Errorf("the dead letters are %v", letters)
	}
	if deaths == 0 || deaths > attempts {
		t.Errorf("%d processes died", deaths)
	}
	t.Logf("%d processes died; the reason is %q", deaths, letters[0].GetReason())
	p.stop(t)
}
