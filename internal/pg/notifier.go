package pg

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/internal/loop"
	"plinth/internal/observe"
)

const notifyLimit = 5 * time.Second

// Notifier is a process's only sender and receiver of notifications: domains subscribe to channels, one connection listens
// on all of them, and pending notifications are sent together.
//
// A notification is a hint that there is something to read; it carries no data of its own. A notification that cannot be
// sent is dropped. Subscribers are called whenever the connection was reestablished, since notifications may have been
// missed, and also poll at a slow rate.
//
// Notifier also elects leaders: of the processes that share a duty, one leads.
type Notifier struct {
	system *System
	config *pgx.ConnConfig
	log    *zap.Logger

	// Not changed after Run is called:
	subscribers map[string][]func(payload string) // by channel
	duties      []*duty
	dues        []*Due

	mu       sync.Mutex
	pending  map[notification]struct{}
	signal   chan struct{}
	wake     context.CancelFunc // ends waitNotification
	electing bool               // electNow was called
}

type notification struct{ channel, payload string }

// NotifierConfig configures a Notifier.
type NotifierConfig struct {
	// System sends the notifications.
	System *System
	// URL connects to the server itself: through a pooler in transaction mode, LISTEN silently has no effect.
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

// Subscribe arranges for wake to be called with the payload of each notification on a channel, and with "" after each
// connect: a subscriber that reads on every call misses nothing. Calls are sequential across all subscribers, so wake must
// not block. Subscribe must be called before Run.
func (n *Notifier) Subscribe(channel string, wake func(payload string)) {
	n.subscribers[channel] = append(n.subscribers[channel], wake)
}

// Notify queues a notification and returns at once. Writers call it after their transaction is committed, never within it,
// because NOTIFY serializes the commits of the whole server. Pending notifications are sent in one statement, each distinct
// one once, however many writers asked for it. A payload has at most 7,999 bytes.
func (n *Notifier) Notify(channel, payload string) {
	n.mu.Lock()
	n.pending[notification{channel, payload}] = struct{}{}
	n.mu.Unlock()
	loop.Signal(n.signal)
}

// Run listens and sends until ctx ends. It then sends what is pending, so that every commit before that is announced.
func (n *Notifier) Run(ctx context.Context) {
	var listening sync.WaitGroup
	listening.Go(func() { defer observe.LogPanic(n.log); n.listen(ctx) })
	listening.Go(func() { defer observe.LogPanic(n.log); n.watchLate(ctx) })
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
	// A notification is never durable, but without this setting its commit would wait for the disk like any other.
	_, _ = n.system.Exec(ctx, `SELECT pg_notify(channel, payload), set_config('synchronous_commit', 'off', true)
		FROM unnest($1::text[], $2::text[]) AS n (channel, payload)`, channels, payloads)
}
