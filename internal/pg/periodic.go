package pg

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/loop"
)

// idleIntervals is how many intervals a process leaves out that found the work taken: whoever did it last comes back for it, and
// is missed only when it has died.
const idleIntervals = 2

// Periodic is work that one process of the cluster does once per interval.
type Periodic struct {
	Name     string // of the work, unique in the cluster
	Interval time.Duration
	// Work may take longer than the interval. It may then run in another process at the same time, so it must be idempotent.
	// An error is logged; the work is tried again in the next interval.
	Work func(ctx context.Context) error
	Log  *zap.Logger
}

// Periodically calls p.Work once per interval, in one of the processes that call Periodically, until ctx ends.
//
// A process asks when the work is due, and claims it by moving that time forward in the same statement; the other processes
// see the new time and sleep until then. No lock is held during the work, so nobody has to notice that a process has died:
// the next interval goes to the process that asks first. The clock is the database's.
func (s *System) Periodically(ctx context.Context, p Periodic) {
	for wait := rand.N(p.Interval/10 + 1); loop.Sleep(ctx, wait); {
		taken, left, err := s.takePeriodic(ctx, p)
		if taken {
			err = p.Work(ctx)
		}
		// A database that is away is reported elsewhere.
		if err != nil && !errs.Is(err, errs.Unavailable) && ctx.Err() == nil {
			p.Log.Warn("periodic work failed, trying again in its next interval", zap.String("work", p.Name), zap.Error(err))
		}
		wait = left + rand.N(p.Interval/10+1)
		if !taken {
			wait += idleIntervals * p.Interval
		}
	}
}

// takePeriodic claims the work if it is due. left is how long it is until it is due again.
func (s *System) takePeriodic(ctx context.Context, p Periodic) (taken bool, left time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(p.Interval, connectLimit))
	defer cancel()
	err = s.QueryRow(ctx, `
		WITH added AS (
			INSERT INTO periodic (name, due_at)
			SELECT $1, now() + $2::interval WHERE NOT EXISTS (SELECT FROM periodic WHERE name = $1)
			ON CONFLICT DO NOTHING RETURNING due_at
		), taken AS (
			UPDATE periodic SET due_at = now() + $2::interval WHERE name = $1 AND due_at <= now() RETURNING due_at
		)
		SELECT EXISTS (SELECT FROM added UNION ALL SELECT FROM taken),
			coalesce((SELECT min(due_at) FROM periodic WHERE name = $1 AND due_at > now()) - now(), $2::interval)`,
		p.Name, p.Interval).Scan(&taken, &left)
	if err != nil {
		return false, p.Interval, err
	}
	return taken, min(left, p.Interval), nil
}
