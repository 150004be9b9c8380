package message

import (
	"context"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// insertDeadLetter stores a message as a dead letter. If the dead letter exists already, because a delivery came again,
// it stays and gets the latest failure.
func insertDeadLetter(ctx context.Context, db *pg.Tx, d DeadLetter) error {
	_, err := db.Exec(ctx, `
		INSERT INTO dead_letters AS d (tenant, id, queue, message_id, reason, attempts, first_failed_at, last_failed_at,
			headers, attributes, body)
		VALUES ($1, $2::uuid, $3, $4::uuid, $5, $6, $7, $8, $9::json, $10::json, $11)
		ON CONFLICT (tenant, queue, message_id) DO UPDATE SET reason = excluded.reason,
			attempts = greatest(d.attempts, excluded.attempts), last_failed_at = excluded.last_failed_at`,
		auth.TenantOf(ctx), d.ID, d.Queue.name, d.MessageID, validText(d.Reason), d.Attempts, d.FirstFailedAt, d.LastFailedAt,
		object(d.headers), object(d.Attributes), append([]byte{}, d.Body...))
	return err
}

// deadLetterColumns are the columns that scanDeadLetter reads first.
const deadLetterColumns = `id::text, queue, message_id::text, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body`

func scanDeadLetter(row pgx.Row, more ...any) (d DeadLetter, err error) {
	err = row.Scan(append([]any{&d.ID, &d.Queue.name, &d.MessageID, &d.Reason, &d.Attempts, &d.FirstFailedAt, &d.LastFailedAt,
		&d.headers, &d.Attributes, &d.Body}, more...)...)
	return d, err
}

// matches is the condition for the dead letters d of queue $2 that match the filter $3, $4, $5. It uses strpos and not
// LIKE, because characters of a reason could be special in a pattern.
const matches = `d.tenant = $1 AND d.queue = $2 AND strpos(lower(d.reason), lower($3::text)) > 0
	AND d.last_failed_at >= coalesce($4::timestamptz, '-infinity') AND d.last_failed_at < coalesce($5::timestamptz, 'infinity')`

func (f Filter) arguments(ctx context.Context, queue QueueName) []any {
	return []any{auth.TenantOf(ctx), queue.name, validText(f.Reason), unlessZero(f.FailedAfter), unlessZero(f.FailedBefore)}
}

// selectDeadLetters returns a page: at most size dead letters, and no more than maxPageBytes unless the first one alone
// is larger. more reports whether the list goes on. The size of a body is determined without reading it.
func selectDeadLetters(ctx context.Context, db pg.Querier, queue QueueName, filter Filter, after position, size int) (
	letters []DeadLetter, more bool, err error,
) {
	rows, err := db.Query(ctx, `
		WITH found AS (
			SELECT id, last_failed_at, octet_length(body) + octet_length(attributes::text) + octet_length(reason) AS bytes
			FROM dead_letters d
			WHERE `+matches+` AND (last_failed_at, id) < (coalesce($6::timestamptz, 'infinity'), $7::uuid)
			ORDER BY last_failed_at DESC, id DESC LIMIT $8 + 1
		), page AS (
			SELECT id FROM (SELECT id, row_number() OVER list AS n, sum(bytes) OVER list AS bytes FROM found
				WINDOW list AS (ORDER BY last_failed_at DESC, id DESC)) AS counted
			WHERE n = 1 OR n <= $8 AND bytes <= $9
		)
		SELECT `+deadLetterColumns+`, (SELECT count(*) FROM found) > (SELECT count(*) FROM page)
		FROM dead_letters WHERE tenant = $1 AND id = ANY (ARRAY(SELECT id FROM page))
		ORDER BY last_failed_at DESC, id DESC`,
		append(filter.arguments(ctx, queue), unlessZero(after.lastFailedAt), after.id.String(), size, maxPageBytes)...)
	if err != nil {
		return nil, false, err
	}
	letters, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (DeadLetter, error) { return scanDeadLetter(row, &more) })
	return letters, more, err
}

func selectDeadLetter(ctx context.Context, db pg.Querier, id string) (DeadLetter, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+deadLetterColumns+` FROM dead_letters
		WHERE tenant = $1 AND id = $2::uuid AND `+stays,
		auth.TenantOf(ctx), id), func(row pgx.Row) (DeadLetter, error) { return scanDeadLetter(row) },
		errs.New(errs.NotFound, "id: there is no dead letter %s", id))
}
