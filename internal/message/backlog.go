package message

import (
	"context"
	"time"

	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	// maxBacklogs is how many backlogs one round looks at. The next one goes on behind them.
	maxBacklogs = 1000
	// backlogProbe is how many messages are tried of a backlog of which nothing could be sent the last time.
	backlogProbe = 8

	backlogMinBackoff = time.Second
	backlogMaxBackoff = 10 * time.Second

	// farOff stands for a due time where there is none.
	farOff = time.Hour
)

// backlog is what waits of a tenant for one queue or topic.
type backlog struct {
	tenant, queue, topic string
	due                  time.Duration // until its earliest message is due; negative when it is
	failures             int           // rounds in which nothing could be sent, one after the other
	blocked              time.Duration // until it is tried again after a failure; negative when it may be
	share                int           // messages that it has of a batch
}

// key identifies a backlog.
func (b backlog) key() backlog { return backlog{tenant: b.tenant, queue: b.queue, topic: b.topic} }

func (e *envelope) backlog() backlog {
	return backlog{tenant: e.tenant, queue: e.to.queue.name, topic: e.to.topic}
}

// chooseBacklogs takes those that are due out of what a round has seen, each with its share of a batch: tenants have equal
// parts, and so have the backlogs of a tenant, whatever waits in them. next is how long there is nothing to do where none is
// due. after is where the next round begins; it is the beginning once the end was seen. continued says that this round did not
// begin there, so that what is before was not seen.
func chooseBacklogs(seen []backlog, continued bool) (due []backlog, next time.Duration, after backlog) {
	next = farOff
	tenants := map[string]int{}
	for i, b := range seen {
		wait := max(b.due, b.blocked)
		if wait > 0 {
			next = min(next, wait)
			continue
		}
		if len(due) == relayBatch {
			return share(due, tenants), 0, seen[i-1].key()
		}
		due = append(due, b)
		tenants[b.tenant]++
	}
	switch {
	case len(seen) == maxBacklogs:
		after, next = seen[len(seen)-1].key(), 0
	case continued:
		next = 0
	}
	return share(due, tenants), next, after
}

// share sets the shares of backlogs of so many tenants, with as many backlogs each.
func share(due []backlog, tenants map[string]int) []backlog {
	for i := range due {
		b := &due[i]
		b.share = max(1, relayBatch/len(tenants)/tenants[b.tenant])
		if b.failures > 0 {
			b.share = min(b.share, backlogProbe)
		}
	}
	return due
}

// backOff leaves the backlogs alone of which nothing could be sent, and no longer those that failed before and did not now.
func (r *relay) backOff(ctx context.Context, tx *pg.Tx, batch []*envelope, outcomes []error) error {
	sent, failures := map[backlog]bool{}, map[backlog]int{}
	for i, m := range batch {
		b := m.backlog()
		failures[b] = m.failures
		sent[b] = sent[b] || outcomes[i] == nil || errs.Is(outcomes[i], errs.InvalidArgument)
	}
	var blocked, free []backlog
	for b, before := range failures {
		switch {
		case !sent[b]:
			b.failures = before + 1
			b.blocked = loop.Delay(b.failures, backlogMinBackoff, backlogMaxBackoff)
			blocked = append(blocked, b)
		case before > 0:
			free = append(free, b)
		}
	}
	if err := blockBacklogs(ctx, tx, blocked); err != nil {
		return err
	}
	return freeBacklogs(ctx, tx, free)
}
