package postgres

import (
	"strings"
	"testing"
	"time"

	"plinth/internal/pg/pgtest"
)

// TestCreditCountsBytes has more bytes wait for a subscription than it may hold, whatever its credit, and one message that is
// larger than that by itself.
func TestCreditCountsBytes(t *testing.T) {
	t.Parallel()
	const messages, size = 20, 2 << 20
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	body := strings.Repeat("x", size)
	for range messages {
		publish(t, b, queue, body)
	}
	publish(t, b, queue, strings.Repeat("x", maxHeld+1))
	sub := subscribe(t, b, queue, 1000)
	first := receive(t, sub)
	<-time.After(500 * time.Millisecond) // It claims what it can meanwhile.
	if held := b.bytes.Load(); held > maxHeld || held < size {
		t.Errorf("%d bytes are held", held)
	}
	if err := first.Ack(patient(t)); err != nil {
		t.Fatal(err)
	}
	for range messages {
		d := receive(t, sub)
		if held := b.bytes.Load(); held > maxHeld && len(d.Body) == size {
			t.Errorf("%d bytes are held", held)
		}
		if err := d.Ack(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	if held := b.bytes.Load(); held != 0 {
		t.Errorf("%d bytes are held of nothing", held)
	}
}
