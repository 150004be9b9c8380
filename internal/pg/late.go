package pg

import (
	"context"
	"strings"
	"time"

	"plinth/internal/loop"
)

const (
	// latePoll is how often a process checks whether rows are late, its own as a leader's and those of other leaders, which may hang.
	latePoll = 3 * time.Second
	// lateLimit is the timeout of a check.
	lateLimit = time.Second
	// dueLate is how late a row may be before a process that was not woken looks for it.
	dueLate = 500 * time.Millisecond
)

// watchLate checks whether rows are late until ctx ends.
func (n *Notifier) watchLate(ctx context.Context) {
	loop.Every(ctx, latePoll, func(ctx context.Context) {
		var dues []*Due
		for _, d := range n.dues {
			if d.duty.taken.Load() {
				dues = append(dues, d)
			}
		}
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
