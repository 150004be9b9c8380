package message_test

import (
	"strings"
	"testing"
	"time"
)

// TestStreamHoldsFewBytes has more bytes wait for a stream than it may hold, whatever its credit, after it has had many small messages or
// none. Its client reads nothing, and then everything: each message is in its first attempt.
func TestStreamHoldsFewBytes(t *testing.T) {
	const size, messages = 3<<20 - 10, 10
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		for what, small := range map[string]int{"at first": 0, "after small ones": 20} {
			t.Run(what, func(t *testing.T) {
				q := f.once(t)
				for range small {
					f.publish(t, q, "small")
				}
				sub := f.subscribe(t, q, 1000, long)
				for left := small; left > 0; {
					for _, m := range next(t, sub) {
						sub.Ack([]string{m.ID})
						left--
					}
				}
				for range messages {
					f.publish(t, q, strings.Repeat("x", size))
				}
				eventually(t, "the stream has what it may hold", func() bool { return f.Held() > 16<<20-2*size })
				for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
					if n := f.Held(); n > 16<<20 {
						t.Fatalf("%d bytes are held", n)
					}
				}
				f.wantFirst(t, q, sub, messages)
			})
		}
	})
}

// TestProcessHoldsFewBytes has other streams of the process hold nearly all of the bytes that it may. A stream gets what there is room for,
// and goes on message by message, each in its first attempt.
func TestProcessHoldsFewBytes(t *testing.T) {
	const size, messages, room = 3<<20 - 10, 6, 4 << 20
	t.Parallel()
	onEveryBroker(t, func(t *testing.T, f fixture) {
		f.OthersHold(room)
		others := f.Held()
		q := f.once(t)
		for range messages {
			f.publish(t, q, strings.Repeat("x", size))
		}
		sub := f.subscribe(t, q, 1000, long)
		eventually(t, "the stream has a message", func() bool { return f.Held() > others })
		for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
			if n := f.Held() - others; n > room {
				t.Fatalf("%d bytes are held beside those of others", n)
			}
		}
		f.wantFirst(t, q, sub, messages)
	})
}
