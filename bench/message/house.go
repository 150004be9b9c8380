package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/broker/amqp"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// The tenants of a house.
const (
	greedy = "greedy"
	modest = "modest"
)

// house is a process with two tenants: the service with its relay and its worker, on a database of its own, with its connections in
// classes as in production.
type house struct {
	service *message.Service
	broker  broker.Broker
	owner   *pgxpool.Pool // of the database
	orders  message.QueueName

	published atomic.Int64
	handled   sync.Map // from the body of a message to the channel that is told when it was handled

	mu      sync.Mutex
	queues  []string // on the broker
	closers []func()
}

func (h *house) close() {
	for i := len(h.closers) - 1; i >= 0; i-- {
		h.closers[i]()
	}
}

// run runs a part until the house is closed.
func (h *house) run(part func(context.Context) error) {
	h.closers = append(h.closers, command.Start(part))
}

func openHouse(ctx context.Context, kind, amqpURL string) (_ *house, err error) {
	h := &house{}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	url, drop, err := scratch.Database(ctx)
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, func() { _ = drop() })
	if h.owner, err = pgxpool.New(ctx, url); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.owner.Close)
	var calls, handlers, work, carrier *pg.DB
	for db, most := range map[**pg.DB]int32{&calls: 8, &handlers: 4, &work: 5, &carrier: 4} {
		if *db, err = pg.Open(ctx, pg.Config{URL: url, MaxConns: most, Shared: db == &calls || db == &carrier}); err != nil {
			return nil, err
		}
		h.closers = append(h.closers, (*db).Close)
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: work.System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	if kind == "postgres" {
		h.broker = postgres.New(carrier.System(), notifier, zap.NewNop())
	} else {
		adapter, err := amqp.New(amqpURL, zap.NewNop())
		if err != nil {
			return nil, err
		}
		h.broker = broker.Named(adapter, func(ctx context.Context) (uuid.UUID, error) { return pg.Identity(ctx, work.System()) })
	}
	h.service = message.New(message.Config{
		DB: calls, Handlers: handlers, System: work.System(), Notifier: notifier, Broker: h.broker, Log: zap.NewNop(), CountsDepths: kind != "postgres",
		Limits: message.Limits{
			Queues: 10_000, Waiting: 1_000_000, Keys: 5_000_000, Items: 2_000_000, Letters: 2_000_000, Queued: 10_000_000, Bytes: 10 << 30, WaitBytes: 10 << 30,
			Handlers: 256,
		},
	})
	worker := message.NewWorker(message.WorkerConfig{Service: h.service, Handlers: h.handlers(), Tenants: tenants, Drain: time.Second, Lines: zap.NewNop()})
	h.run(func(ctx context.Context) error { notifier.Run(ctx); return nil })
	h.run(h.broker.Run)
	h.closers = append(h.closers, h.deleteQueues)
	for _, part := range []func(context.Context) error{h.service.Run, h.service.Relay, h.service.Work, worker.Run} {
		h.run(part)
	}
	h.orders, err = h.queue(auth.AsService(ctx, modest), "orders", message.Policy{})
	return h, err
}

func tenants(context.Context) ([]auth.Tenant, <-chan struct{}, error) {
	return []auth.Tenant{{Name: greedy}, {Name: modest}}, nil, nil
}

var errOfHandler = errors.New("it always fails")

func (h *house) handlers() []message.Handler {
	return []message.Handler{
		message.HandleBytes("orders", func(_ context.Context, m message.Message) error {
			if handled, ok := h.handled.LoadAndDelete(string(m.Body)); ok {
				handled.(chan time.Time) <- time.Now()
			}
			return nil
		}, message.Concurrency(8)),
		message.HandleBytes("failing", func(context.Context, message.Message) error { return errOfHandler }, message.Concurrency(8)),
	}
}

// queue creates a queue of the tenant of ctx, which is deleted from the broker when the house is closed.
func (h *house) queue(ctx context.Context, name string, policy message.Policy) (q message.QueueName, err error) {
	if q, err = message.ParseQueueName(name); err != nil {
		return q, err
	}
	h.remember(auth.TenantOf(ctx), name)
	for began := time.Now(); ; <-time.After(50 * time.Millisecond) { // The broker may not be connected yet.
		if _, err = h.service.CreateQueue(ctx, q, policy); err == nil || !again(err) || time.Since(began) > arrives {
			return q, err
		}
	}
}

func (h *house) remember(tenant, queue string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queues = append(h.queues, tenant+"."+queue)
}

func (h *house) deleteQueues() {
	ctx, cancel := context.WithTimeout(context.Background(), arrives)
	defer cancel()
	_ = concurrently(8, len(h.queues), func() error {
		h.mu.Lock()
		name := h.queues[len(h.queues)-1]
		h.queues = h.queues[:len(h.queues)-1]
		h.mu.Unlock()
		return h.broker.Delete(ctx, name)
	})
}

// exec runs a statement as the owner of the database.
func (h *house) exec(ctx context.Context, sql string, args ...any) error {
	if _, err := h.owner.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%.40s: %w", sql, err)
	}
	return nil
}
