package message

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const operationColumns = `id::text, kind, queue, state, principal, max_per_second, total, done, skipped, created_at, ended_at, next_due_at`

func scanOperation(row pgx.Row) (o Operation, err error) {
	var ended, nextDue *time.Time
	err = row.Scan(&o.ID, &o.Kind, &o.Queue.name, &o.State, &o.Principal, &o.MaxPerSecond, &o.Total, &o.Done, &o.Skipped,
		&o.CreatedAt, &ended, &nextDue)
	if ended != nil {
		o.EndedAt = *ended
	}
	if nextDue != nil {
		o.nextDueAt = *nextDue
	}
	return o, err
}

// insertOperation inserts the row of an operation that has no dead letters yet.
func insertOperation(ctx context.Context, db *pg.Tx, o Operation) error {
	_, err := db.Exec(ctx, `
		INSERT INTO dead_letter_operations (tenant, id, kind, queue, state, principal, max_per_second, total)
		VALUES ($1, $2::uuid, $3, $4, 'planned', $5, $6, 0)`, auth.TenantOf(ctx), o.ID, o.Kind, o.Queue.name, o.Principal, o.MaxPerSecond)
	return err
}

// startOperation sets a planned operation to running, which works once, and records who starts it and how fast it is to
// be.
func startOperation(ctx context.Context, db *pg.Tx, o Operation) (Operation, error) {
	errUnknown := errs.New(errs.NotFound, "token: not one of a dry run of this %s and queue, or older than an hour", o.Kind)
	if uuid.Validate(o.ID) != nil {
		return Operation{}, errUnknown
	}
	started, err := scanOperation(db.QueryRow(ctx, `
		UPDATE dead_letter_operations SET state = 'running', principal = $5, created_at = now(),
			max_per_second = CASE WHEN $6::int > 0 THEN $6 ELSE max_per_second END
		WHERE tenant = $1 AND id = $2::uuid AND kind = $3 AND queue = $4 AND state = 'planned' AND created_at > now() - interval '1 hour'
		RETURNING `+operationColumns, auth.TenantOf(ctx), o.ID, o.Kind, o.Queue.name, o.Principal, o.MaxPerSecond))
	if !errors.Is(err, pgx.ErrNoRows) {
		return started, err
	}
	found, err := selectOperation(ctx, db, o.ID)
	switch {
	case errs.Is(err, errs.NotFound) || err == nil && (found.Kind != o.Kind || found.Queue != o.Queue || found.State == Planned):
		return Operation{}, errUnknown
	case err != nil:
		return Operation{}, err
	default:
		return Operation{}, errs.New(errs.FailedPrecondition, "token: it was used already; the operation %s tells what became of it", o.ID)
	}
}

// The parts of a statement that carries out a chunk. Its items follow those of earlier chunks, and its size is determined
// before any body is read. Rows are found by their keys alone: right after many dead letters were inserted, the planner has
// no statistics of them and chooses joins that take very long.
const (
	takeChunk = `
		WITH sized AS (
			SELECT i.n, sum(coalesce(octet_length(d.body), 0)) OVER (ORDER BY i.n) - coalesce(octet_length(d.body), 0) AS bytes_before
			FROM (SELECT n, dead_letter_id FROM dead_letter_operation_items
				WHERE tenant = $1 AND operation_id = $2::uuid AND n > $8 ORDER BY n LIMIT $4) AS i
			LEFT JOIN dead_letters d ON d.tenant = $1 AND d.id = i.dead_letter_id
		), taken AS (
			DELETE FROM dead_letter_operation_items
			WHERE tenant = $1 AND operation_id = $2::uuid AND n > $8 AND n <= (SELECT max(n) FROM sized WHERE bytes_before < $5)
			RETURNING n, dead_letter_id
		)`
	deleteTaken = `, gone AS (
			DELETE FROM dead_letters WHERE tenant = $1 AND id = ANY (ARRAY(SELECT dead_letter_id FROM taken))
			RETURNING id, message_id, headers, attributes, body
		)`
	skipTaken = `, gone AS (
			SELECT FROM taken WHERE false
		)`
	redriveGone = `, redriven AS (
			INSERT INTO message_waiting AS w (tenant, id, queue, due_at, headers, attributes, body)
			SELECT $1, message_id, $3,
				greatest(statement_timestamp(), $7::timestamptz) + make_interval(secs => $6::float8 * (row_number() OVER (ORDER BY n) - 1)),
				headers, attributes, body
			FROM gone JOIN taken ON dead_letter_id = id ORDER BY n
			ON CONFLICT (tenant, id, queue) DO UPDATE
				SET attempts = 0, reason = '', first_failed_at = NULL, due_at = least(w.due_at, excluded.due_at)
		)`
	countChunk = `
		UPDATE dead_letter_operations SET
			done = done + (SELECT count(*) FROM gone),
			skipped = skipped + (SELECT count(*) FROM taken) - (SELECT count(*) FROM gone),
			state = CASE WHEN done + skipped + (SELECT count(*) FROM taken) >= total THEN 'done' ELSE state END,
			ended_at = CASE WHEN done + skipped + (SELECT count(*) FROM taken) >= total THEN clock_timestamp() END,
			next_due_at = greatest(statement_timestamp(), $7::timestamptz) + make_interval(secs => $6::float8 * (SELECT count(*) FROM gone))
		WHERE tenant = $1 AND id = $2::uuid AND queue = $3
		RETURNING ` + operationColumns
)

// purgeChunk removes the next dead letters of an operation, at most as many as letters.
func purgeChunk(ctx context.Context, db *pg.Tx, o Operation, letters int) (Operation, error) {
	return scanOperation(db.QueryRow(ctx, takeChunk+deleteTaken+countChunk, chunkArguments(ctx, o, letters)...))
}

// skipChunk counts the next dead letters of an operation as skipped, and leaves them to be removed with their queue.
func skipChunk(ctx context.Context, db *pg.Tx, o Operation, letters int) (Operation, error) {
	return scanOperation(db.QueryRow(ctx, takeChunk+skipTaken+countChunk, chunkArguments(ctx, o, letters)...))
}

// redriveChunk moves the next dead letters of an operation, at most as many as letters, to the waiting table, each one
// due a little after the one before. If the message of a dead letter is waiting there already, the two become one.
func redriveChunk(ctx context.Context, db *pg.Tx, o Operation, letters int) (Operation, error) {
	return scanOperation(db.QueryRow(ctx, takeChunk+deleteTaken+redriveGone+countChunk, chunkArguments(ctx, o, letters)...))
}

func chunkArguments(ctx context.Context, o Operation, letters int) []any {
	spacing := 0.0 // seconds
	if o.MaxPerSecond > 0 {
		spacing = 1 / float64(o.MaxPerSecond)
	}
	return []any{auth.TenantOf(ctx), o.ID, o.Queue.name, letters, chunkBytes, spacing, unlessZero(o.nextDueAt), o.Done + o.Skipped}
}

// ready is the condition for operations that have something to do now. A redrive with a limit never gets far ahead of its
// messages, so that its progress shows what is still to come.
const ready = `state = 'running' AND (next_due_at IS NULL OR next_due_at < now() + interval '1 minute')`

// operationsLate is for how long the operation that has been ready for the longest has waited. The result is negative if none is
// ready.
const operationsLate = `
	SELECT coalesce(now() - min(coalesce(next_due_at - interval '1 minute', created_at)), '-1 hour')
	FROM dead_letter_operations WHERE state = 'running'`

func selectOperationsLate(ctx context.Context, system *pg.System) (late time.Duration, err error) {
	err = system.QueryRow(ctx, operationsLate).Scan(&late)
	return late, err
}

// running identifies an operation of some tenant that is ready.
type running struct{ tenant, id string }

// selectRunning returns the operations of all tenants that are ready.
func selectRunning(ctx context.Context, system *pg.System) ([]running, error) {
	rows, err := system.Query(ctx, `SELECT tenant, id::text FROM dead_letter_operations WHERE `+ready+` ORDER BY created_at`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r running, err error) {
		err = row.Scan(&r.tenant, &r.id)
		return r, err
	})
}

// claimOperation locks an operation for the transaction. claimed is false if it is done or another worker has locked it.
func claimOperation(ctx context.Context, db *pg.Tx, id string) (o Operation, claimed bool, err error) {
	o, err = scanOperation(db.QueryRow(ctx, `SELECT `+operationColumns+` FROM dead_letter_operations
		WHERE tenant = $1 AND id = $2::uuid AND `+ready+` FOR UPDATE SKIP LOCKED`, auth.TenantOf(ctx), id))
	if errors.Is(err, pgx.ErrNoRows) {
		return Operation{}, false, nil
	}
	return o, err == nil, err
}

func selectOperation(ctx context.Context, db pg.Querier, id string) (Operation, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+operationColumns+` FROM dead_letter_operations WHERE tenant = $1 AND id = $2::uuid`,
		auth.TenantOf(ctx), id), scanOperation, errs.New(errs.NotFound, "id: there is no redrive or purge %s", id))
}

func selectOperations(ctx context.Context, db pg.Querier, queue QueueName, after string, limit int) ([]Operation, error) {
	rows, err := db.Query(ctx, `SELECT `+operationColumns+` FROM dead_letter_operations
		WHERE tenant = $1 AND queue = $2 AND id < $3::uuid ORDER BY dead_letter_operations.id DESC LIMIT $4`, auth.TenantOf(ctx), queue.name, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Operation, error) { return scanOperation(row) })
}
