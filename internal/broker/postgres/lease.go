package postgres

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
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

const (
	lapsedBatch = 1000
	// watchedAtOnce is how many queues one poll looks at; the next one goes on behind them.
	watchedAtOnce = 500
)

// returnLapsed makes messages ready again whose leases ran out, as those of a process that died do.
func (b *Broker) returnLapsed(ctx context.Context) {
	for n := lapsedBatch; n == lapsedBatch; {
		var queues []int64
		var err error
		if n, queues, err = endLapsed(ctx, b.db, lapsedBatch); err != nil {
			b.logger.Warn("leases that ran out cannot be looked for, trying again", zap.Error(err))
			return
		}
		for _, queue := range queues {
			b.notify(queue)
		}
	}
}

// poll finds what no notification announced: lost notifications, and the deletion of a queue whose subscriptions have no credit.
func (b *Broker) poll(ctx context.Context) {
	watched := b.nextWatched()
	if len(watched) == 0 {
		return
	}
	queues, err := queuesToWake(ctx, b.db, watched)
	if err != nil {
		b.logger.Warn("queues cannot be looked at, trying again", zap.Int("queues", len(watched)), zap.Error(err))
		return
	}
	for _, queue := range queues {
		b.wakeNext(queue, true)
	}
}

// nextWatched returns the queues to look at in this poll.
func (b *Broker) nextWatched() []int64 {
	all := b.queues()
	slices.Sort(all)
	if len(all) <= watchedAtOnce {
		return all
	}
	from, _ := slices.BinarySearch(all, b.watched+1)
	next := slices.Concat(all[from:], all[:from])[:watchedAtOnce]
	b.watched = next[watchedAtOnce-1]
	return next
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
