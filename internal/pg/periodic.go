package pg

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/loop"
)

// Periodic is work that one process of the cluster does once in an interval.
type Periodic struct {
	Name     string // of the work, one for the cluster
	Interval time.Duration
	// Work may take longer than the interval, and may then be called in another process as well: its effect must be the same.
	// An error is logged; the next interval tries again.
	Work func(ctx context.Context) error
	Log  *zap.Logger
}

// Periodically calls p.Work once in an interval, in one of the processes that run it, until ctx ends.
//
// A process asks when the work is due, and takes it by moving that time on in the same statement; the others see the new time,
// and sleep until then. Nothing is held while the work is done, so nobody has to notice that a process has died: the next
// interval is for whoever asks first. The clock is the database's.
func (s *System) Periodically(ctx context.Context, p Periodic) {
	for wait := rand.N(p.Interval/10 + 1); loop.Sleep(ctx, wait); {
		taken, left, err := s.takePeriodic(ctx, p)
		if taken {
			err = p.Work(ctx)
		}
		// Of a database that is away others tell.
		if err != nil && !errs.Is(err, errs.Unavailable) && ctx.Err() == nil {
			p.Log.Warn("periodic work failed, trying again in its next interval", zap.String("work", p.Name), zap.Error(err))
		}
		wait = left + rand.N(p.Interval/10+1)
	}
}

// takePeriodic takes the work if it is due. left is how long it is until it is due the next time.
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
