package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/bench/scratch"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/outbound"
	"plinth/internal/pg"
	"plinth/internal/schedule"
)

// bench is one worker on a database of its own.
type bench struct {
	ctx      context.Context // of the services
	ends     []func()
	db       *pg.DB
	owner    *pgx.Conn
	notifier *pg.Notifier
	service  *schedule.Service
}

func (b *bench) close() {
	for _, end := range slices.Backward(b.ends) {
		end()
	}
}

func open(ctx context.Context) (*bench, error) {
	b := &bench{}
	var stop context.CancelFunc
	b.ctx, stop = context.WithCancel(context.WithoutCancel(ctx))
	b.ends = append(b.ends, stop)
	databaseURL, drop, err := scratch.Database(ctx)
	if err != nil {
		return b, err
	}
	b.ends = append(b.ends, func() { _ = drop() })
	if b.owner, err = pgx.Connect(ctx, databaseURL); err != nil {
		return b, err
	}
	b.ends = append(b.ends, func() { _ = b.owner.Close(context.WithoutCancel(ctx)) })
	if b.db, err = pg.Open(ctx, pg.Config{URL: databaseURL, MaxConns: 8}); err != nil {
		return b, err
	}
	if b.notifier, err = pg.NewNotifier(pg.NotifierConfig{System: b.db.System(), URL: databaseURL, Log: zap.NewNop()}); err != nil {
		return b, err
	}
	messages := message.New(message.Config{
		DB: b.db, Handlers: b.db, System: b.db.System(), Notifier: b.notifier, Broker: postgres.New(b.db.System(), b.notifier, zap.NewNop()), Log: zap.NewNop(),
	})
	b.service = schedule.New(schedule.Config{
		DB: b.db, System: b.db.System(), Notifier: b.notifier, Messages: messages, Outbound: outbound.New(outbound.Config{}), Worker: "bench", Log: zap.NewNop(),
	})
	var running sync.WaitGroup
	running.Go(func() { b.notifier.Run(b.ctx) })
	running.Go(func() { _ = b.service.Work(b.ctx) })
	b.ends = append(b.ends, func() { stop(); running.Wait(); b.db.Close() })
	return b, b.exec(ctx, `INSERT INTO queues (tenant, name) VALUES ('acme', 'q')`)
}

func (b *bench) exec(ctx context.Context, sql string, args ...any) error {
	_, err := b.owner.Exec(ctx, sql, args...)
	return err
}

// plan makes n schedules of a tenant in place of those before. first and interval are SQL expressions, of the number i of a schedule.
func (b *bench) plan(ctx context.Context, n int, interval time.Duration, first string) error {
	if err := b.exec(ctx, `TRUNCATE schedules, schedule_runs, message_waiting`); err != nil {
		return err
	}
	definition := fmt.Sprintf(`{"interval": %d, "overlap_policy": "skip", "max_buffered": 100, "catch_up": "latest", "catch_up_window": 31536000000000000,
		"retry": {"max_attempts": 1, "min_backoff": 1000000000, "max_backoff": 600000000000}, "attempt_timeout": 3600000000000,
		"on_worker_loss": "retry", "run_retention": {"max_age": 2592000000000000, "max_count": 1000}, "action": {"publish": {"queue": "q", "text": "{{run_id}}"}}}`, interval)
	err := b.exec(ctx, `
		INSERT INTO schedules (tenant, name, id, definition, created_at, updated_at, updated_by, next_fire_at, next_due_at, run_max_age, run_max_count)
		SELECT 'acme', 's' || i, gen_random_uuid(), $2, first - $3::interval, now(), 'bench', first, first, '30 days', 1000
		FROM generate_series(1, $1::int) AS i, LATERAL (SELECT `+first+` AS first) AS f`, n, definition, interval)
	if err == nil {
		err = b.exec(ctx, `ANALYZE schedules`)
	}
	if err == nil {
		err = b.exec(ctx, `SELECT pg_notify('plinth_schedules', 'ticks')`)
	}
	return err
}

// fired waits until n runs are committed, and returns how late each began, sorted.
func (b *bench) fired(ctx context.Context, n int, limit time.Duration) (late []time.Duration, err error) {
	for deadline := time.Now().Add(limit); ; {
		var has int
		if err := b.owner.QueryRow(ctx, `SELECT count(*) FROM schedule_runs WHERE state = 'succeeded'`).Scan(&has); err != nil {
			return nil, err
		}
		if has >= n || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	rows, err := b.owner.Query(ctx, `SELECT started_at - due_at FROM schedule_runs WHERE state = 'succeeded' ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[time.Duration])
}

// spread returns how late schedules fire that are spread over an interval.
func (b *bench) spread(ctx context.Context, n int, interval time.Duration) ([]time.Duration, error) {
	first := fmt.Sprintf(`now() + interval '3 seconds' + interval '%d microseconds' * i / %d`, interval.Microseconds(), n)
	if err := b.plan(ctx, n, interval, first); err != nil {
		return nil, err
	}
	return b.fired(ctx, n, interval+30*time.Second)
}

// burst returns how long schedules take to fire that are due at one instant, ago, and the CPU time of this process. All must have fired,
// and each once.
func (b *bench) burst(ctx context.Context, n int, ago time.Duration) (took, spent time.Duration, err error) {
	first := fmt.Sprintf(`date_trunc('second', now()) + interval '3 seconds' - interval '%d seconds'`, int(ago.Seconds()))
	before, began := cpu(), time.Now()
	if err := b.plan(ctx, n, 24*time.Hour, first); err != nil {
		return 0, 0, err
	}
	late, err := b.fired(ctx, n, time.Minute)
	if err != nil {
		return 0, 0, err
	}
	spent = cpu() - before
	if len(late) != n {
		return 0, 0, fmt.Errorf("%d of %d fired", len(late), n)
	}
	if ago == 0 { // The last of them was committed right now.
		err = b.owner.QueryRow(ctx, `SELECT clock_timestamp() - min(due_at) FROM schedule_runs`).Scan(&took)
		return took, spent, err
	}
	return time.Since(began), spent, nil
}
