package message

import (
	"context"
	"time"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// pinStep is how many dead letters one statement of pin looks at.
const pinStep = 10_000

// busy are the items of an operation that has a dead letter d already: of another one that is running, or of $2 itself. It is
// found by the index, however many items there are.
const busy = `LEFT JOIN LATERAL (
		SELECT o.id <> $2::uuid AS elsewhere FROM dead_letter_operation_items i
		JOIN dead_letter_operations o ON o.tenant = i.tenant AND o.id = i.operation_id
		WHERE i.tenant = $1 AND i.dead_letter_id = d.id AND (o.state = 'running' OR o.id = $2::uuid)
		ORDER BY i.dead_letter_id LIMIT 1) AS b ON true`

// pin fixes the dead letters of an operation: those of its queue that match the filter, in the order of their last failure, the
// oldest first. Dead letters of another running operation are left out and counted as elsewhere. Each statement looks at a bounded
// number of dead letters, and what it chose is taken, so that neither its time nor its memory grows with how many there are.
func pin(ctx context.Context, tx *pg.Tx, o Operation, filter Filter, take func(int64) error) (_ Operation, elsewhere int64, err error) {
	total, last, args := int64(0), position{}, filter.arguments(ctx, o.Queue)
	for seen := int64(pinStep); seen == pinStep; {
		var chosen, elsewhereNow int64
		var failed *time.Time
		var id *string
		err = tx.QueryRow(ctx, `
			WITH seen AS MATERIALIZED (
				SELECT d.id, d.last_failed_at, `+reasonMatches+` AS matches
				FROM dead_letters d WHERE d.tenant = $1 AND d.queue = $6 AND `+failedWithin+`
					AND (d.last_failed_at, d.id) > (coalesce($7::timestamptz, '-infinity'), $8::uuid)
				ORDER BY d.last_failed_at, d.id LIMIT $9
			), asked AS MATERIALIZED (
				SELECT d.id, d.last_failed_at, b.elsewhere FROM seen d `+busy+` WHERE d.matches
			), pinned AS (
				INSERT INTO dead_letter_operation_items (tenant, operation_id, n, dead_letter_id)
				SELECT $1, $2::uuid, $10::bigint + row_number() OVER (ORDER BY last_failed_at, id), id FROM asked WHERE elsewhere IS NULL
				RETURNING n
			), last AS (
				SELECT last_failed_at, id FROM seen ORDER BY last_failed_at DESC, id DESC LIMIT 1
			)
			SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM pinned), (SELECT count(*) FROM asked WHERE elsewhere),
				(SELECT last_failed_at FROM last), (SELECT id::text FROM last)`,
			args[0], o.ID, args[2], args[3], args[4], args[1], unlessZero(last.lastFailedAt), last.id.String(), pinStep, total).
			Scan(&seen, &chosen, &elsewhereNow, &failed, &id)
		if err == nil {
			err = take(chosen)
		}
		if err != nil {
			return o, 0, err
		}
		total, elsewhere = total+chosen, elsewhere+elsewhereNow
		if failed != nil {
			last.lastFailedAt = *failed
			if err := last.id.UnmarshalText([]byte(*id)); err != nil {
				return o, 0, err
			}
		}
	}
	o, err = countPinned(ctx, tx, o, total)
	return o, elsewhere, err
}

// pinNamed is pin for the dead letters with the given ids.
func pinNamed(ctx context.Context, tx *pg.Tx, o Operation, ids []string) (_ Operation, elsewhere int64, err error) {
	var total int64
	err = tx.QueryRow(ctx, `
		WITH asked AS MATERIALIZED (
			SELECT d.id, d.last_failed_at, b.elsewhere FROM dead_letters d `+busy+`
			WHERE d.tenant = $1 AND d.queue = $3 AND d.id = ANY ($4::text[]::uuid[])
		), pinned AS (
			INSERT INTO dead_letter_operation_items (tenant, operation_id, n, dead_letter_id)
			SELECT $1, $2::uuid, row_number() OVER (ORDER BY last_failed_at, id), id FROM asked WHERE elsewhere IS NULL
			RETURNING n
		)
		SELECT (SELECT count(*) FROM pinned), (SELECT count(*) FROM asked WHERE elsewhere)`,
		auth.TenantOf(ctx), o.ID, o.Queue.name, ids).Scan(&total, &elsewhere)
	if err != nil {
		return o, 0, err
	}
	o, err = countPinned(ctx, tx, o, total)
	return o, elsewhere, err
}

func countPinned(ctx context.Context, tx *pg.Tx, o Operation, total int64) (Operation, error) {
	return scanOperation(tx.QueryRow(ctx, `UPDATE dead_letter_operations SET total = $3 WHERE tenant = $1 AND id = $2::uuid
		RETURNING `+operationColumns, auth.TenantOf(ctx), o.ID, total))
}
