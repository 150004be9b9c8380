package postgres

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	channel = "plinth_broker" // the payload is the id of the queue to look at

	lease        = 15 * time.Second // renewed at a third of it
	pollInterval = 3 * time.Second
	// expireInterval is how often one process deletes expired messages: nobody claims or counts them before that either.
	expireInterval = 15 * time.Second

	minBackoff = 100 * time.Millisecond // for retries after database errors
	maxBackoff = time.Second
	callLimit  = 5 * time.Second // of a call, and of every statement in the background
)

// Broker implements broker.Broker on PostgreSQL. Its tables are part of the schema that pg.Migrate creates.
type Broker struct {
	id       string // of this process, to the others
	db       *pg.System
	logger   *zap.Logger
	lease    time.Duration
	notifier *pg.Notifier

	publishes *batcher[publication] // of one message to a queue each
	batches   *batcher[publication] // apart, since one of their statements may take long
	topics    topics
	acks      *batcher[*delivery]

	listening chan struct{} // closed when the Notifier listens for the first time
	lost      chan struct{} // has a token when its connection was lost and is there again
	ended     chan struct{} // closed when Run has ended

	bytes atomic.Int64 // of all messages that subscriptions hold

	watched int64 // the last queue that a poll looked at; only poll uses it

	mu    sync.Mutex
	lines map[int64]*line     // by queue
	rooms map[int64]time.Time // queues whose messages were counted lately, with when they may be again
}

// New returns a Broker on connections of its own, since calls that wait for the Broker hold other connections. It must be
// called before the Notifier's Run. The Broker serves all tenants: a queue's name determines its tenant.
func New(db *pg.System, notifier *pg.Notifier, logger *zap.Logger) *Broker {
	b := &Broker{
		id:       uuid.NewString(),
		db:       db,
		logger:   logger,
		lease:    lease,
		notifier: notifier,
		lines:    map[int64]*line{},
		rooms:    map[int64]time.Time{},

		listening: make(chan struct{}),
		lost:      make(chan struct{}, 1),
		ended:     make(chan struct{}),
	}
	b.publishes, b.batches = newBatcher(maxBatch, b.publish), newBatcher(maxBatch, b.publish)
	b.acks = newBatcher(maxBatch, b.ack)
	b.topics = topics{work: b.publish, log: logger, tenants: map[string]*topicBatcher{}}
	notifier.Subscribe(channel, b.hear)
	return b
}

// Run implements broker.Broker. It may be called once, and the Notifier must run for as long.
func (b *Broker) Run(ctx context.Context) error {
	var serving sync.WaitGroup
	serving.Go(func() { defer observe.LogPanic(b.logger); b.publishes.run(ctx) })
	serving.Go(func() { defer observe.LogPanic(b.logger); b.batches.run(ctx) })
	serving.Go(func() { defer observe.LogPanic(b.logger); b.acks.run(ctx) })
	serving.Go(func() { defer observe.LogPanic(b.logger); every(ctx, b.lease/3, b.renewHeld) })
	serving.Go(func() { defer observe.LogPanic(b.logger); every(ctx, b.lease/3, b.returnLapsed) })
	serving.Go(func() { defer observe.LogPanic(b.logger); every(ctx, pollInterval, b.poll) })
	serving.Go(func() {
		defer observe.LogPanic(b.logger)
		b.db.Periodically(ctx, pg.Periodic{Name: "broker expiry", Interval: expireInterval, Work: b.expire, Log: b.logger})
	})
	for {
		select {
		case <-b.lost:
			b.surrender()
		case <-ctx.Done():
			serving.Wait()
			b.endSubscriptions()
			return nil
		}
	}
}

// hear handles a notification. An empty one means that the listening connection is established, or established again.
func (b *Broker) hear(payload string) {
	if payload == "" {
		select {
		case <-b.listening:
			loop.Signal(b.lost)
		default:
			close(b.listening)
		}
	}
	b.wake(payload)
}

// Ping implements broker.Broker.
func (b *Broker) Ping(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	select {
	case <-b.ended:
		return errEnded()
	default:
		return away(b.db.Writable(ctx))
	}
}

// Subscribe implements broker.Broker. It also waits for the listening connection, which all deliveries depend on.
func (b *Broker) Subscribe(ctx context.Context, queue string, credit int) (broker.Subscription, error) {
	select {
	case <-b.listening:
	case <-b.ended:
		return nil, errEnded()
	case <-ctx.Done():
		return nil, away(ctx.Err())
	}
	backoff := newBackoff()
	for {
		id, err := b.find(ctx, queue)
		if err == nil {
			return b.subscribe(id, credit)
		}
		if !errs.Is(err, errs.Unavailable) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-b.ended:
			return nil, errEnded()
		case <-time.After(backoff.Next()):
		}
	}
}

func (b *Broker) find(ctx context.Context, queue string) (int64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	id, err := findQueue(ctx, b.db, queue)
	return id, away(err)
}

func (b *Broker) subscribe(queue int64, credit int) (broker.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.ended:
		return nil, errEnded()
	default:
	}
	l := b.lines[queue]
	if l == nil {
		l = &line{}
		b.lines[queue] = l
	}
	s := newSubscription(b, l, queue, credit)
	l.subs = append(l.subs, s)
	go s.run()
	return s, nil
}

// endSubscriptions ends all subscriptions and waits until they have returned what they hold.
func (b *Broker) endSubscriptions() {
	b.mu.Lock()
	close(b.ended)
	b.mu.Unlock()
	subs := b.subscriptions()
	for _, s := range subs {
		s.end(errEnded())
	}
	for _, s := range subs {
		<-s.stopped
	}
}

// forget removes a subscription that has ended from its line. It passes the wake-ups of that subscription on to the next
// one, including the one for a deleted queue.
func (b *Broker) forget(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := s.line
	l.subs = slices.DeleteFunc(l.subs, func(other *subscription) bool { return other == s })
	l.wakeNext(true)
	if len(l.subs) == 0 {
		delete(b.lines, s.queue)
	}
}

func (b *Broker) subscriptions() (all []*subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lines {
		all = append(all, l.subs...)
	}
	return all
}

// every runs f at an interval until ctx ends. A run that has begun is completed.
func every(ctx context.Context, interval time.Duration, f func(ctx context.Context)) {
	loop.Every(ctx, interval, func(ctx context.Context) {
		ctx, cancel := bounded(context.WithoutCancel(ctx))
		defer cancel()
		f(ctx)
	})
}

// bounded returns a context that ends after callLimit at the latest.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callLimit)
}

// away turns the error of a call that ran out of time into Unavailable. It returns all other errors unchanged.
func away(err error) error {
	if errs.Is(err, errs.DeadlineExceeded) {
		return errs.Wrap(err, errs.Unavailable, "the message broker is not available")
	}
	return err
}

func errEnded() error { return errs.New(errs.Unavailable, "the message broker is shut down") }

func newBackoff() loop.Backoff { return loop.Backoff{Min: minBackoff, Max: maxBackoff} }
