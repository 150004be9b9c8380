package message

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// encodePush returns a sealed push as the table keeps it; nil is NULL.
func encodePush(p *Push) (*string, error) {
	if p == nil {
		return nil, nil
	}
	encoded, err := json.Marshal(p)
	text := string(encoded)
	return &text, err
}

func decodePush(text pgtype.Text) (*Push, error) {
	if !text.Valid {
		return nil, nil
	}
	p := &Push{}
	return p, json.Unmarshal([]byte(text.String), p)
}

// selectPushes returns the queues of all tenants that have a push, with what tells a version of that from others.
func selectPushes(ctx context.Context, system *pg.System) (map[tenantQueue]string, error) {
	rows, err := system.Query(ctx, `SELECT tenant, name, md5(push::text) FROM queues WHERE push IS NOT NULL`)
	if err != nil {
		return nil, err
	}
	versions := map[tenantQueue]string{}
	var q tenantQueue
	var version string
	_, err = pgx.ForEachRow(rows, []any{&q.tenant, &q.queue.name, &version}, func() error {
		versions[q] = version
		return nil
	})
	return versions, err
}

// selectPush returns the sealed push of a queue, nil if it has none.
func selectPush(ctx context.Context, db pg.Querier, q tenantQueue) (*Push, error) {
	return scanPush(db.QueryRow(ctx, `SELECT push::text FROM queues WHERE tenant = $1 AND name = $2`, q.tenant, q.queue.name))
}

// lockPush is selectPush, and prevents others from changing it until the transaction ends.
func lockPush(ctx context.Context, tx *pg.Tx, q tenantQueue) (*Push, error) {
	return scanPush(tx.QueryRow(ctx, `SELECT push::text FROM queues WHERE tenant = $1 AND name = $2 FOR NO KEY UPDATE`, q.tenant, q.queue.name))
}

func scanPush(row pgx.Row) (*Push, error) {
	var text pgtype.Text
	if err := row.Scan(&text); errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return decodePush(text)
}

func updatePush(ctx context.Context, tx *pg.Tx, q tenantQueue, p *Push) error {
	text, err := encodePush(p)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE queues SET push = $3 WHERE tenant = $1 AND name = $2`, q.tenant, q.queue.name, text)
	return err
}

// upsertPushFigures writes the figures of a worker. Rows of queues that are gone are left away.
func upsertPushFigures(ctx context.Context, system *pg.System, worker string, rows []toldFigures) error {
	n := len(rows)
	tenants, queues, breakers, problems := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	resume, succeeded, erred := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	outstanding, concurrency, latency := make([]int, n), make([]int, n), make([]time.Duration, n)
	for i, r := range rows {
		tenants[i], queues[i], breakers[i], problems[i] = r.tenant, r.queue.name, r.breaker, pg.Text(errs.Shortened(r.problem, maxReason))
		resume[i], succeeded[i], erred[i] = unlessZero(r.resumeAt), unlessZero(r.succeededAt), unlessZero(r.erredAt)
		outstanding[i], concurrency[i], latency[i] = r.outstanding, r.concurrency, r.latency
	}
	_, err := system.Exec(ctx, `
		INSERT INTO queue_pushes (tenant, queue, worker, breaker, resume_at, outstanding, concurrency, latency, last_success_at, last_error, last_error_at)
		SELECT f.tenant, queue, $1, breaker, resume_at, outstanding, concurrency, latency, last_success_at, last_error, last_error_at
		FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[], $7::int[], $8::interval[], $9::timestamptz[],
			$10::text[], $11::timestamptz[])
			AS f (tenant, queue, breaker, resume_at, outstanding, concurrency, latency, last_success_at, last_error, last_error_at)
		WHERE EXISTS (SELECT FROM queues q WHERE (q.tenant, q.name) = (f.tenant, f.queue) FOR KEY SHARE)
		ON CONFLICT (tenant, queue, worker) DO UPDATE SET breaker = excluded.breaker, resume_at = excluded.resume_at,
			outstanding = excluded.outstanding, concurrency = excluded.concurrency, latency = excluded.latency,
			last_success_at = coalesce(excluded.last_success_at, queue_pushes.last_success_at), last_error = excluded.last_error,
			last_error_at = excluded.last_error_at, written_at = now()`,
		worker, tenants, queues, breakers, resume, outstanding, concurrency, latency, succeeded, problems, erred)
	return err
}

// selectPushStatus returns how the push of a queue does.
func selectPushStatus(ctx context.Context, db pg.Querier, queue QueueName) (*PushStatus, error) {
	rows, err := db.Query(ctx, `SELECT breaker, resume_at, outstanding, concurrency, latency, last_success_at, last_error, last_error_at,
			written_at > now() - $3::interval
		FROM queue_pushes WHERE tenant = $1 AND queue = $2 ORDER BY written_at DESC`, auth.TenantOf(ctx), queue.name, tellFresh)
	if err != nil {
		return nil, err
	}
	var all []pushFigures
	var fresh []bool
	var f pushFigures
	var resume, succeeded, erred pgtype.Timestamptz
	var is bool
	_, err = pgx.ForEachRow(rows, []any{&f.breaker, &resume, &f.outstanding, &f.concurrency, &f.latency, &succeeded, &f.problem, &erred, &is}, func() error {
		f.resumeAt, f.succeededAt, f.erredAt = resume.Time, succeeded.Time, erred.Time
		all, fresh = append(all, f), append(fresh, is)
		return nil
	})
	return summed(all, fresh, time.Now()), err
}
