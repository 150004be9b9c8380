package pg

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/internal/loop"
)

const notifyLimit = 5 * time.Second

// Notifier is a process's one way to NOTIFY and LISTEN: domains subscribe to channels, one connection listens on all of them,
// and what is to be sent goes out together.
//
// A notification is a hint that there is something to read, never the thing itself. One that cannot be sent is dropped.
// Subscribers are woken whenever the connection was made anew, when anything may have been missed, and poll slowly besides.
//
// It also elects leaders: of the processes that have a duty in common, one.
type Notifier struct {
	system *System
	config *pgx.ConnConfig
	log    *zap.Logger

	// Not changed once Run runs:
	subscribers map[string][]func(payload string) // by channel
	duties      []*duty

	mu       sync.Mutex
	pending  map[notification]struct{}
	signal   chan struct{}
	wake     context.CancelFunc // ends the wait for a notification
	electing bool               // was asked for
}

type notification struct{ channel, payload string }

// NotifierConfig is what a Notifier needs.
type NotifierConfig struct {
	// System sends the notifications.
	System *System
	// URL leads to the server itself: behind a pooler in transaction mode LISTEN is silently without effect.
	URL string
	Log *zap.Logger
}

// NewNotifier returns a Notifier, which works while its Run runs. An error means that the URL is not usable.
func NewNotifier(c NotifierConfig) (*Notifier, error) {
	config, err := connConfig(c.URL)
	if err != nil {
		return nil, err
	}
	return &Notifier{
		system: c.System, config: config, log: c.Log, subscribers: map[string][]func(string){},
		pending: map[notification]struct{}{}, signal: make(chan struct{}, 1),
	}, nil
}

// Subscribe has wake called with the payload of each notification of a channel, and with "" after each connect: whoever reads
// on every call misses nothing. Calls come one after the other, for all subscribers, so wake must not block. Subscribe comes
// before Run.
func (n *Notifier) Subscribe(channel string, wake func(payload string)) {
	n.subscribers[channel] = append(n.subscribers[channel], wake)
}

// Notify asks for a notification and returns at once. Writers call it once their transaction is committed, never within it: a
// NOTIFY serializes the commits of the whole server. What is pending goes out in one statement, each distinct notification
// once, however many writers asked for it. A payload has at most 7,999 bytes.
func (n *Notifier) Notify(channel, payload string) {
	n.mu.Lock()
	n.pending[notification{channel, payload}] = struct{}{}
	n.mu.Unlock()
	loop.Signal(n.signal)
}

// Run listens and sends until ctx ends. What is pending then is sent, so that no commit before it stays unheard.
func (n *Notifier) Run(ctx context.Context) {
	var listening sync.WaitGroup
	listening.Go(func() { n.listen(ctx) })
	defer listening.Wait()
	for {
		select {
		case <-ctx.Done():
			n.send(ctx)
			return
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
	_, _ = n.system.Exec(ctx, `SELECT pg_notify(channel, payload), set_config('synchronous_commit', 'off', true)
		FROM unnest($1::text[], $2::text[]) AS n (channel, payload)`, channels, payloads)
}
