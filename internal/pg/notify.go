package pg

import (
	"context"
	"sync"
	"time"
)

const notifyLimit = 5 * time.Second

// Notifier wakes listeners after a commit. Writers call Notify once their transaction is committed, never within it:
// a NOTIFY serializes the commits of the whole server. What is pending goes out in one statement, each distinct
// notification once, however many writers asked for it.
//
// A notification is a hint. One that cannot be sent is dropped: listeners are woken when they connect again, and poll
// slowly besides.
type Notifier struct {
	db      *DB
	mu      sync.Mutex
	pending map[notification]struct{}
	signal  chan struct{}
}

type notification struct{ channel, payload string }

// NewNotifier makes a Notifier, which sends while its Run runs.
func NewNotifier(db *DB) *Notifier {
	return &Notifier{db: db, pending: map[notification]struct{}{}, signal: make(chan struct{}, 1)}
}

// Notify asks for a notification and returns at once. A payload has at most 7,999 bytes.
func (n *Notifier) Notify(channel, payload string) {
	n.mu.Lock()
	n.pending[notification{channel, payload}] = struct{}{}
	n.mu.Unlock()
	select {
	case n.signal <- struct{}{}:
	default:
	}
}

// Run sends what is pending until ctx ends, and then once more, so that no commit before it stays unheard.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			n.send(ctx)
			return nil
		case <-n.signal:
			n.send(ctx)
		}
	}
}

func (n *Notifier) send(ctx context.Context) {
	n.mu.Lock()
	var channels, payloads []string
	for p := range n.pending {
		channels, payloads = append(channels, p.channel), append(payloads, p.payload)
	}
	clear(n.pending)
	n.mu.Unlock()
	if len(channels) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyLimit)
	defer cancel()
	// A notification is never durable, but its commit would wait for the disk like any other.
	_, _ = n.db.Exec(ctx, `SELECT pg_notify(channel, payload), set_config('synchronous_commit', 'off', true)
		FROM unnest($1::text[], $2::text[]) AS n (channel, payload)`, channels, payloads)
}
