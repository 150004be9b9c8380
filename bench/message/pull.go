package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// carrier is the service on one of the brokers, with a queue of its own.
type carrier struct {
	service *message.Service
	broker  broker.Broker
	queue   message.QueueName
}

// onPostgres opens a service whose broker is Postgres, on a database of its own: the relays of the server would send to RabbitMQ.
func (b *bench) onPostgres(ctx context.Context) (c carrier, err error) {
	db, url, err := b.database(ctx)
	if err != nil {
		return c, err
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		return c, err
	}
	adapter := postgres.New(db.System(), notifier, zap.NewNop())
	c.broker = adapter
	c.service = message.New(message.Config{DB: db, Handlers: db, System: db.System(), Notifier: notifier, Broker: adapter, OneLog: true, Log: zap.NewNop()})
	b.run(func(ctx context.Context) error { notifier.Run(ctx); return nil })
	b.run(adapter.Run)
	b.run(c.service.Run)
	b.run(c.service.Relay)
	if c.queue, err = message.ParseQueueName("bench"); err != nil {
		return c, err
	}
	_, err = c.service.CreateQueue(ctx, c.queue, message.Policy{})
	return c, err
}

func (c carrier) fill(ctx context.Context, n int) error {
	to := broker.Address{Queue: "default." + c.queue.String()}
	return concurrently(window, n, func() error {
		return c.broker.Publish(ctx, to, broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: payload})
	})
}

// stream has one consumer of n messages, which acknowledges each batch before it takes the next.
func (c carrier) stream(ctx context.Context, n int) (time.Duration, error) {
	if err := c.fill(ctx, n); err != nil {
		return 0, err
	}
	began := time.Now()
	sub, err := c.service.Consume(ctx, c.queue, 1000, time.Minute)
	if err != nil {
		return 0, err
	}
	defer sub.Close()
	for left := n; left > 0; {
		batch, err := sub.Next(ctx)
		if err != nil {
			return 0, err
		}
		ids := make([]string, len(batch))
		for i, m := range batch {
			ids[i] = m.ID
		}
		sub.Ack(ids)
		left -= len(batch)
	}
	return time.Since(began), nil
}

// pull has 64 callers, each of which pulls up to 100 messages and acknowledges them.
func (c carrier) pull(ctx context.Context, n int) (time.Duration, error) {
	if err := c.fill(ctx, n); err != nil {
		return 0, err
	}
	var left atomic.Int64
	left.Store(int64(n))
	began := time.Now()
	err := concurrently(callers, callers, func() error {
		for left.Load() > 0 {
			pulled, err := c.service.Pull(ctx, message.PullRequest{Queue: c.queue, Max: 100, Wait: 100 * time.Millisecond, AckDeadline: time.Minute})
			if err != nil {
				return err
			}
			receipts := make([]string, len(pulled))
			for i, m := range pulled {
				receipts[i] = m.Receipt
			}
			if len(receipts) == 0 {
				continue
			}
			results, err := c.service.Ack(ctx, c.queue, receipts)
			if err := errors.Join(append(results, err)...); err != nil {
				return err
			}
			left.Add(-int64(len(receipts)))
		}
		return nil
	})
	return time.Since(began), err
}
