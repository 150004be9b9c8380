package postgres

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// notify wakes the subscriptions of a queue in all processes, once the change it is about is committed.
func (b *Broker) notify(queue int64) { b.notifier.Notify(channel, strconv.FormatInt(queue, 10)) }

// wake handles a notification. One that names no queue is about all queues; one that names a process as well is a hint from
// that process to the others.
func (b *Broker) wake(payload string) {
	queue, from, isHint := strings.Cut(payload, " ")
	id, _ := strconv.ParseInt(queue, 10, 64)
	switch {
	case payload == "":
		for _, queue := range b.queues() {
			b.wakeNext(queue, true)
		}
	case !isHint:
		b.wakeNext(id, false)
	case from != b.id:
		b.hearHint(id)
	}
}

// poll finds what no notification announced: leases that ran out, lost notifications, and the deletion of a queue whose
// subscriptions have no credit.
func (b *Broker) poll(ctx context.Context) {
	watched := b.queues()
	if len(watched) == 0 {
		return
	}
	queues, err := queuesToWake(ctx, b.db, watched)
	if err != nil {
		return // Listen logs it, and the next poll tries again.
	}
	for _, queue := range queues {
		b.wakeNext(queue, true)
	}
}

// renewHeld renews every lease of the process.
func (b *Broker) renewHeld(ctx context.Context) {
	var held []*delivery
	for _, s := range b.subscriptions() {
		held = append(held, s.outstanding()...)
	}
	if len(held) > 0 {
		_ = renewLeases(ctx, b.db, held, b.lease) // The leases last for two more tries.
	}
}

// surrender returns everything that is outstanding, because the connection it came over is lost.
func (b *Broker) surrender() {
	var held []*delivery
	for _, s := range b.subscriptions() {
		held = append(held, s.drop()...)
	}
	b.returnAll(held)
}

// returnAll makes deliveries ready again. It retries for a while: the pool may contain connections that broke together with
// the one that was noticed. If the database stays unreachable, the leases run out instead.
func (b *Broker) returnAll(deliveries []*delivery) {
	if len(deliveries) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	backoff := newBackoff()
	for returnMessages(ctx, b.db, deliveries) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Next()):
		}
	}
	for _, d := range deliveries {
		b.notify(d.queue)
	}
}
