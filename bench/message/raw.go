package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

var payload = make([]byte, size)

// rawPublish is the baseline of all publishing.
func (b *bench) rawPublish(ctx context.Context, n int) (time.Duration, error) {
	return b.rawWindow(ctx, n, window)
}

// rawNarrow has a window as small as that of callers who wait for each of their messages.
func (b *bench) rawNarrow(ctx context.Context, n int) (time.Duration, error) {
	return b.rawWindow(ctx, n, callers)
}

// rawWindow publishes over one channel of amqp091-go with a sliding window of deferred confirms.
func (b *bench) rawWindow(ctx context.Context, n, window int) (time.Duration, error) {
	channel, err := b.conn.Channel()
	if err != nil {
		return 0, err
	}
	defer func() { _ = channel.Close() }()
	if err := channel.Confirm(false); err != nil {
		return 0, err
	}
	began := time.Now()
	unconfirmed := make(chan *amqp091.DeferredConfirmation, window-1)
	confirmed := make(chan error, 1)
	go func() {
		for c := range unconfirmed {
			if ok, err := c.WaitContext(ctx); err != nil || !ok {
				confirmed <- fmt.Errorf("not confirmed: %w", errors.Join(err))
				return
			}
		}
		confirmed <- nil
	}()
	for range n {
		const mandatory, immediate = true, false
		c, err := channel.PublishWithDeferredConfirm("", b.rawQueue, mandatory, immediate, amqp091.Publishing{
			DeliveryMode: amqp091.Persistent, MessageId: uuid.Must(uuid.NewV7()).String(), Body: payload,
		})
		if err != nil {
			return 0, err
		}
		unconfirmed <- c
	}
	close(unconfirmed)
	err = <-confirmed
	return time.Since(began), errors.Join(err, b.empty(b.rawQueue))
}

// rawConsume is the baseline of consuming: one channel, the same credit, an ack for each message.
func (b *bench) rawConsume(ctx context.Context, n int) (time.Duration, error) {
	if err := fill(ctx, b.adapter, b.rawQueue, n); err != nil {
		return 0, err
	}
	channel, err := b.conn.Channel()
	if err != nil {
		return 0, err
	}
	defer func() { _ = channel.Close() }()
	if err := channel.Qos(credit, 0, false); err != nil {
		return 0, err
	}
	began := time.Now()
	deliveries, err := channel.Consume(b.rawQueue, "", false, false, false, false, nil)
	if err != nil {
		return 0, err
	}
	for range n {
		d := <-deliveries
		if err := d.Ack(false); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// bareTransactions is the baseline of effect once: the same effect in a transaction of its own, as many at a time.
func (b *bench) bareTransactions(ctx context.Context, n int) (time.Duration, error) {
	began := time.Now()
	err := concurrently(credit, n, func() error {
		return b.db.InTx(ctx, func(tx *pg.Tx) error { return b.effect(ctx, tx) })
	})
	return time.Since(began), err
}

func (b *bench) effect(ctx context.Context, tx *pg.Tx) error {
	_, err := tx.Exec(ctx, `INSERT INTO bench_effects (id) VALUES ($1)`, uuid.NewString())
	return err
}

// concurrently calls do n times, with the given number of calls at a time, and tries again as callers are told to.
func concurrently(at, n int, do func() error) error {
	var left atomic.Int64
	left.Store(int64(n))
	var working sync.WaitGroup
	failed := make(chan error, at)
	for range at {
		working.Go(func() {
			for left.Add(-1) >= 0 {
				err := do()
				for tries := 1; tries < 100 && again(err); tries++ { // RabbitMQ refuses one in very many, and takes it the next time.
					<-time.After(10 * time.Millisecond)
					err = do()
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	working.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// again reports whether a call failed for what the next one may not meet.
func again(err error) bool {
	return errs.Is(err, errs.Unavailable) || connect.CodeOf(err) == connect.CodeUnavailable
}
