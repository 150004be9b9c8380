package message_test

import (
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

// TestRedriveCountsAsWaiting redrives more than may wait: a small redrive is refused as a whole, a large one goes on as there is room.
func TestRedriveCountsAsWaiting(t *testing.T) {
	t.Parallel()
	const most, letters = 300, 1500
	f := limited(t, message.Limits{Waiting: most})
	q := f.queue(t, "orders")
	ids := f.letters(t, q, letters)
	if _, _, err := f.RedriveDeadLetters(within(t), q, message.Choice{IDs: ids[:most+1]}, 0); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("a redrive of more than may wait: %v", err)
	}
	if n := f.waiting(t); n != 0 {
		t.Errorf("%d wait", n)
	}
	op, _ := f.redrive(t, q, all, 0)
	eventually(t, "as many wait as may", func() bool { f.work(t); return f.waiting(t) >= most })
	if n := f.waiting(t); n != most {
		t.Errorf("%d wait, want %d", n, most)
	}
	f.refusedBy(t, "waiting messages", message.Publication{To: message.ToQueue(q), Delay: time.Hour})
	run(t, f.Relay)
	eventually(t, "all are redriven", func() bool {
		f.work(t)
		return f.operation(t, op.ID).State == message.Done
	})
	f.drained(t)
	if n := f.count(t, `SELECT count(*) FROM broker_messages`); n != letters {
		t.Errorf("%d are in the queue", n)
	}
}
