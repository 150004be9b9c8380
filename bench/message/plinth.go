package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/bench/command"
	"plinth/internal/auth"
	"plinth/internal/message"
	"plinth/internal/pg"
)

func (b *bench) contests() []contest {
	rabbitmq := carrier{b.service, b.broker, b.queue}
	return []contest{
		{name: "publish", bare: b.rawPublish, ours: b.publish, share: 1},
		{name: "publish-same-window", promise: 0.9, bare: b.rawNarrow, ours: b.publish, share: 1},
		{name: "publish-batch", promise: 0.9, bare: b.rawPublish, ours: b.publishBatch, share: 1},
		{name: "publish-rpc", bare: b.rawPublish, ours: b.publishRPC, share: 2},
		{name: "publish-rpc-batch", promise: 0.6, bare: b.rawPublish, ours: b.publishBatchRPC, share: 1},
		{name: "relay", promise: 0.7, bare: b.rawPublish, ours: b.relay, share: 1},
		{name: "consume", promise: 0.85, bare: b.rawConsume, ours: b.consume, share: 1},
		{name: "pull", bare: rabbitmq.stream, ours: rabbitmq.pull, share: 2},
		{name: "pull-postgres", promise: 0.5, bare: b.postgres.stream, ours: b.postgres.pull, share: 5},
		{name: "consume-effect-once", bare: b.bareTransactions, ours: b.consumeOnce, share: 5},
	}
}

func (b *bench) publication() message.Publication {
	return message.Publication{To: message.ToQueue(b.queue), Body: payload}
}

func (b *bench) publish(ctx context.Context, n int) (time.Duration, error) {
	began := time.Now()
	err := concurrently(callers, n, func() error {
		_, err := b.service.Publish(ctx, b.publication())
		return err
	})
	return time.Since(began), errors.Join(err, b.purge(ctx))
}

// publishBatch has the same number of callers, each with a few messages at a time.
func (b *bench) publishBatch(ctx context.Context, n int) (time.Duration, error) {
	const few = 8
	batch := make([]message.Publication, few)
	for i := range batch {
		batch[i] = b.publication()
	}
	began := time.Now()
	err := concurrently(callers, n/few, func() error {
		for _, result := range b.service.PublishBatch(ctx, batch) {
			if result.Err != nil {
				return result.Err
			}
		}
		return nil
	})
	return time.Since(began) * time.Duration(n) / time.Duration(n/few*few), errors.Join(err, b.purge(ctx))
}

func (b *bench) publishRPC(ctx context.Context, n int) (time.Duration, error) {
	client := messagev1.NewMessageServiceClient(b.http, b.server.url, connect.WithGRPC())
	req := &messagev1.PublishRequest{Queue: b.queue.String(), Payload: &messagev1.PublishRequest_Data{Data: payload}}
	began := time.Now()
	err := concurrently(callers, n, func() error {
		_, err := client.Publish(ctx, req)
		return err
	})
	return time.Since(began), errors.Join(err, b.purge(ctx))
}

func (b *bench) publishBatchRPC(ctx context.Context, n int) (time.Duration, error) {
	const batch = 64
	client := messagev1.NewMessageServiceClient(b.http, b.server.url, connect.WithGRPC())
	req := &messagev1.PublishBatchRequest{}
	for range batch {
		req.Messages = append(req.Messages,
			&messagev1.PublishRequest{Queue: b.queue.String(), Payload: &messagev1.PublishRequest_Data{Data: payload}})
	}
	began := time.Now()
	err := concurrently(8, n/batch, func() error {
		res, err := client.PublishBatch(ctx, req)
		for _, r := range res.GetResults() {
			if r.GetError() != nil {
				failed := errors.New(r.GetError().GetMessage())
				if r.GetError().GetCode() == connect.CodeUnavailable.String() {
					return connect.NewError(connect.CodeUnavailable, failed)
				}
				return failed
			}
		}
		return err
	})
	// The remainder of n/batch is not published.
	return time.Since(began) * time.Duration(n) / time.Duration(n/batch*batch), errors.Join(err, b.purge(ctx))
}

// relay publishes rows that were committed before. The time is from the start of the relay to the last confirm.
func (b *bench) relay(ctx context.Context, n int) (time.Duration, error) {
	if err := b.fillWaiting(ctx, n); err != nil {
		return 0, err
	}
	began := time.Now()
	stop := command.Start(b.service.Relay)
	defer stop()
	for {
		var left int
		if err := b.db.QueryRow(ctx, `SELECT count(*) FROM message_waiting`).Scan(&left); err != nil {
			return 0, err
		}
		if left == 0 {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	return time.Since(began), b.purge(ctx)
}

func (b *bench) consume(ctx context.Context, n int) (time.Duration, error) {
	return b.handle(ctx, n, func(handled func()) message.Handler {
		return message.HandleBytes(b.queue.String(), func(context.Context, message.Message) error {
			handled()
			return nil
		}, message.Concurrency(credit))
	})
}

func (b *bench) consumeOnce(ctx context.Context, n int) (time.Duration, error) {
	return b.handle(ctx, n, func(handled func()) message.Handler {
		return message.HandleBytesTx(b.queue.String(), func(ctx context.Context, tx *pg.Tx, _ message.Message) error {
			err := b.effect(ctx, tx)
			handled()
			return err
		}, message.Concurrency(credit))
	})
}

// alone returns the only tenant of the bench.
func alone(context.Context) ([]auth.Tenant, <-chan struct{}, error) {
	return []auth.Tenant{{Name: auth.DefaultTenant}}, nil, nil
}

// handle measures how long a worker takes to handle n messages that were published before.
func (b *bench) handle(ctx context.Context, n int, handler func(handled func()) message.Handler) (time.Duration, error) {
	if err := fill(ctx, b.broker, b.onBroker, n); err != nil {
		return 0, err
	}
	var handled atomic.Int64
	done := make(chan struct{})
	h := handler(func() {
		if handled.Add(1) == int64(n) {
			close(done)
		}
	})
	began := time.Now()
	stop := b.work(message.NewWorker(message.WorkerConfig{
		Service: b.service, Handlers: []message.Handler{h}, Tenants: alone, Drain: time.Second, Lines: b.log,
	}))
	defer stop()
	select {
	case <-done:
		return time.Since(began), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
