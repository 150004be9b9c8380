package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"plinth/internal/message"
)

// storm is what the greedy tenant does beside the modest one. prepare is not measured; rage goes on until it is done or ctx ends.
type storm struct {
	name    string
	prepare func(ctx context.Context, h *house, s sizes) error
	rage    func(ctx context.Context, h *house, s sizes) error
}

func storms() []storm {
	return []storm{
		{"full", fillFull, awaitEnd},
		{"due", fillDue, awaitEnd},
		{"keyed", makeSink, publishKeyed},
		{"redrive", fillDeadLetters, redrive},
		{"failing", makeFailing, publishFailing},
		{"batches", makeSink, publishBatches},
		{"topic", bindMany, publishToTopic},
	}
}

func awaitEnd(ctx context.Context, _ *house, _ sizes) error { <-ctx.Done(); return nil }

// fillFull has very many rows due for a queue that takes nothing more.
func fillFull(ctx context.Context, h *house, s sizes) error {
	q, err := h.queue(ctx, "full", message.Policy{MaxLength: 1})
	if err != nil {
		return err
	}
	if _, err := h.service.Publish(ctx, message.Publication{To: message.ToQueue(q)}); err != nil {
		return err
	}
	return h.fillWaiting(ctx, "full", s.rows, 1024)
}

// fillDue has very many rows due at the same instant, for a queue that takes them all.
func fillDue(ctx context.Context, h *house, s sizes) error {
	if _, err := h.queue(ctx, "sink", message.Policy{}); err != nil {
		return err
	}
	return h.fillWaiting(ctx, "sink", s.rows, size)
}

// fillWaiting inserts rows that are due when they are committed.
func (h *house) fillWaiting(ctx context.Context, queue string, rows, bytes int) error {
	return h.exec(ctx, `INSERT INTO message_waiting (tenant, id, queue, due_at, body)
		SELECT $1, gen_random_uuid(), $2, now(), convert_to(repeat('x', $4), 'UTF8') FROM generate_series(1, $3)`, greedy, queue, rows, bytes)
}

func makeSink(ctx context.Context, h *house, _ sizes) error {
	_, err := h.queue(ctx, "sink", message.Policy{})
	return err
}

func toQueue(name string) message.Publication {
	q, _ := message.ParseQueueName(name)
	return message.Publication{To: message.ToQueue(q), Body: payload}
}

// publishKeyed publishes with idempotency keys, so that each is a row first.
func publishKeyed(ctx context.Context, h *house, s sizes) error {
	var number atomic.Int64
	return concurrently(callers, s.messages, func() error {
		p := toQueue("sink")
		p.IdempotencyKey = fmt.Sprint(number.Add(1))
		_, err := h.service.Publish(ctx, p)
		return err
	})
}

func fillDeadLetters(ctx context.Context, h *house, s sizes) error {
	if _, err := h.queue(ctx, "sink", message.Policy{}); err != nil {
		return err
	}
	return h.exec(ctx, `INSERT INTO dead_letters
			(tenant, id, queue, message_id, reason, folded_reason, attempts, first_failed_at, last_failed_at, headers, attributes, body)
		SELECT $1, gen_random_uuid(), 'sink', gen_random_uuid(), 'it failed', 'it failed', 3, now(), now(), '{}', '{}', convert_to(repeat('x', $3), 'UTF8')
		FROM generate_series(1, $2)`, greedy, s.messages, size)
}

// redrive redrives all of them without a limit.
func redrive(ctx context.Context, h *house, _ sizes) error {
	q, _ := message.ParseQueueName("sink")
	_, _, err := h.service.RedriveDeadLetters(ctx, q, message.Choice{Filter: &message.Filter{}}, 0)
	return err
}

// makeFailing creates the queue of a handler that always fails.
func makeFailing(ctx context.Context, h *house, _ sizes) error {
	_, err := h.queue(ctx, "failing", message.Policy{MaxAttempts: 3, MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Second})
	return err
}

func publishFailing(ctx context.Context, h *house, s sizes) error {
	return h.publishMany(ctx, "failing", 8, s.messages/100, 100)
}

// publishBatches has many callers publish large batches without end.
func publishBatches(ctx context.Context, h *house, s sizes) error {
	for ctx.Err() == nil {
		if err := h.publishMany(ctx, "sink", callers, callers, s.batch); err != nil {
			return err
		}
	}
	return nil
}

func (h *house) publishMany(ctx context.Context, queue string, at, batches, each int) error {
	batch := make([]message.Publication, each)
	for i := range batch {
		batch[i] = toQueue(queue)
	}
	return concurrently(at, batches, func() error {
		for _, result := range h.service.PublishBatch(ctx, batch) {
			if result.Err != nil {
				return result.Err
			}
		}
		return nil
	})
}

// bindMany has many queues with many bindings to one topic, which the broker does not know yet.
func bindMany(ctx context.Context, h *house, s sizes) error {
	for n := range s.queues {
		h.remember(greedy, fmt.Sprintf("bound-%d", n))
	}
	if err := h.exec(ctx, `INSERT INTO queues (tenant, name) SELECT $1, 'bound-' || n FROM generate_series(0, $2 - 1) n`, greedy, s.queues); err != nil {
		return err
	}
	return h.exec(ctx, `INSERT INTO queue_bindings (tenant, queue, topic, pattern)
		SELECT $1, 'bound-' || n, 'news', 'a.' || n || '.' || m FROM generate_series(0, $2 - 1) n, generate_series(1, $3) m`, greedy, s.queues, s.bindings)
}

// publishToTopic publishes to that topic without end, at once and with a delay. That it fails for as long as the queues are being declared
// is the tenant's own concern.
func publishToTopic(ctx context.Context, h *house, s sizes) error {
	var number atomic.Int64
	for ctx.Err() == nil {
		_ = concurrently(8, 8, func() error {
			n := number.Add(1)
			to, err := message.ToTopic("news", fmt.Sprintf("a.%d.1", n%int64(s.queues)))
			if err != nil {
				return err
			}
			_, err = h.service.Publish(ctx, message.Publication{To: to, Body: payload, Delay: time.Duration(n%2) * time.Millisecond})
			<-time.After(time.Millisecond)
			return err
		})
	}
	return nil
}
