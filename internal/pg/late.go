package pg

import (
	"context"
	"strings"
	"time"

	"plinth/internal/loop"
)

const (
	// latePoll is how often a process checks whether rows are late that it leads for. Those of which another process is the leader
	// it checks at every helpEvery-th of these polls: a leader that dies is followed by another, so they help only where one hangs.
	latePoll  = 2 * time.Second
	helpEvery = 2
	// lateLimit is the timeout of a check.
	lateLimit = time.Second
	// dueLate is how late a row may be before a process that was not woken looks for it.
	dueLate = 500 * time.Millisecond
)

// watchLate checks whether rows are late until ctx ends.
func (n *Notifier) watchLate(ctx context.Context) {
	polls := 0
	loop.Every(ctx, latePoll, func(ctx context.Context) {
		var dues []*Due
		for _, d := range n.dues {
			if d.duty.leads.Load() || d.duty.taken.Load() && polls%helpEvery == 0 {
				dues = append(dues, d)
			}
		}
		polls++
		if len(dues) > 0 {
			n.wakeLate(ctx, dues)
		}
	})
}

// wakeLate wakes those whose rows are late. All are asked for in one statement, since many processes do so all the time. It
// ignores errors: the lanes report a database that is away.
func (n *Notifier) wakeLate(ctx context.Context, dues []*Due) {
	ctx, cancel := context.WithTimeout(ctx, lateLimit)
	defer cancel()
	queries, late, scanned := make([]string, len(dues)), make([]time.Duration, len(dues)), make([]any, len(dues))
	for i, d := range dues {
		queries[i], scanned[i] = "("+d.Late+")", &late[i]
	}
	if n.system.QueryRow(ctx, "SELECT "+strings.Join(queries, ", ")).Scan(scanned...) != nil {
		return
	}
	for i, d := range dues {
		if late[i] > dueLate {
			loop.Signal(d.token)
		}
	}
}
