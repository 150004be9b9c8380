package message

import (
	"context"
	"time"

	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	// maxBacklogs is how many backlogs one round looks at. The next round continues after them.
	maxBacklogs = 1000
	// backlogProbe is how many messages of a backlog are tried if none could be sent the last time.
	backlogProbe = 8

	backlogMinBackoff = time.Second
	backlogMaxBackoff = 10 * time.Second

	// farOff is the time until the next due message if there is none.
	farOff = time.Hour
)

// backlog describes a tenant's waiting messages for one queue or topic.
type backlog struct {
	tenant, queue, topic string
	due                  time.Duration // until its earliest message is due; negative if it is due
	failures             int           // consecutive rounds in which nothing could be sent
	blocked              time.Duration // until it is tried again after a failure; negative if it may be tried
	share                int           // how many messages of a batch it may fill
}

// key returns the part of b that identifies it.
func (b backlog) key() backlog { return backlog{tenant: b.tenant, queue: b.queue, topic: b.topic} }

func (e *envelope) backlog() backlog {
	return backlog{tenant: e.tenant, queue: e.to.queue.name, topic: e.to.topic}
}

// chooseBacklogs returns those of the seen backlogs that are due, each with its share of a batch. All tenants get equal
// shares, and so do all backlogs of a tenant, however many messages wait in them. next is how long there is nothing to do
// if none is due. after is where the next round begins; it is the zero backlog, the beginning, once a round has reached
// the end. continued reports whether this round did not start at the beginning, so that earlier backlogs were not seen.
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
			return shareOut(due, tenants), 0, seen[i-1].key()
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
	return shareOut(due, tenants), next, after
}

// shareOut sets the share of each backlog. tenants counts the due backlogs of each tenant.
func shareOut(due []backlog, tenants map[string]int) []backlog {
	for i := range due {
		b := &due[i]
		b.share = max(1, relayBatch/len(tenants)/tenants[b.tenant])
		if b.failures > 0 {
			b.share = min(b.share, backlogProbe)
		}
	}
	return due
}

// backOff blocks the backlogs of which nothing could be sent, for longer after each failure. It unblocks the backlogs
// that failed before and succeeded now.
func (r *relay) backOff(ctx context.Context, tx *pg.Tx, batch []*envelope, outcomes []error) error {
	sent, failures := map[backlog]bool{}, map[backlog]int{}
	for i, m := range batch {
		b := m.backlog()
		failures[b] = m.failures
		// A message without a binding has a back-off of its own, and must not hold up those that have one.
		sent[b] = sent[b] || outcomes[i] == nil || errs.Is(outcomes[i], errs.InvalidArgument) || b.topic != "" && errs.Is(outcomes[i], errs.NotFound)
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
