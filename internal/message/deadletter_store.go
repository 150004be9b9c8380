package message

import (
	"context"
	"slices"

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
			headers, attributes, body, folded_reason)
		VALUES ($1, $2::uuid, $3, $4::uuid, $5, $6, $7, $8, $9::json, $10::json, $11, $12)
		ON CONFLICT (tenant, queue, message_id) DO UPDATE SET reason = excluded.reason, folded_reason = excluded.folded_reason,
			attempts = greatest(d.attempts, excluded.attempts), last_failed_at = excluded.last_failed_at`,
		auth.TenantOf(ctx), d.ID, d.Queue.name, d.MessageID, pg.Text(d.Reason), d.Attempts, d.FirstFailedAt, d.LastFailedAt,
		object(d.headers), object(d.Attributes), append([]byte{}, d.Body...), folded(pg.Text(d.Reason)))
	return err
}

// deadLetterColumns are the columns that scanDeadLetter reads first.
const deadLetterColumns = `id::text, queue, message_id::text, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body`

func scanDeadLetter(row pgx.Row, more ...any) (d DeadLetter, err error) {
	err = row.Scan(append([]any{&d.ID, &d.Queue.name, &d.MessageID, &d.Reason, &d.Attempts, &d.FirstFailedAt, &d.LastFailedAt,
		&d.headers, &d.Attributes, &d.Body}, more...)...)
	return d, err
}

// reasonMatches and failedWithin are the conditions for the dead letters d that match the filter $3, $4, $5; matches is for those of
// queue $2. They use strpos and not LIKE, because characters of a reason could be special in a pattern. The release before stored
// no folded reason.
const (
	reasonMatches = `($3::text = '' OR strpos(coalesce(d.folded_reason, lower(d.reason)), $3::text) > 0)`
	failedWithin  = `d.last_failed_at >= coalesce($4::timestamptz, '-infinity') AND d.last_failed_at < coalesce($5::timestamptz, 'infinity')`
	matches       = `d.tenant = $1 AND d.queue = $2 AND ` + reasonMatches + ` AND ` + failedWithin
)

func (f Filter) arguments(ctx context.Context, queue QueueName) []any {
	return []any{auth.TenantOf(ctx), queue.name, folded(pg.Text(f.Reason)), unlessZero(f.FailedAfter), unlessZero(f.FailedBefore)}
}

// reasonStep is how many dead letters one statement compares with a reason.
const reasonStep = 20_000

// selectDeadLetters returns a page: at most size dead letters, and no more than maxPageBytes unless the first one alone
// is larger. more reports whether the list goes on. The size of a body is determined without reading it. With a reason it
// looks at reasonStep dead letters at most; seen is the last one that it looked at if the page is not full by then, else zero.
func selectDeadLetters(ctx context.Context, db pg.Querier, queue QueueName, filter Filter, after position, size int) (
	letters []DeadLetter, seen position, more bool, err error,
) {
	arguments := append(filter.arguments(ctx, queue), unlessZero(after.lastFailedAt), after.id.String())
	const behind = `(d.last_failed_at, d.id) < (coalesce($6::timestamptz, 'infinity'), $7::uuid)`
	if filter.Reason != "" {
		seen, err = pg.One(db.QueryRow(ctx, `SELECT last_failed_at, id::text FROM dead_letters d
			WHERE d.tenant = $1 AND d.queue = $2 AND $3::text <> '' AND `+failedWithin+` AND `+behind+`
			ORDER BY last_failed_at DESC, d.id DESC OFFSET $8 LIMIT 1`, append(slices.Clone(arguments), reasonStep-1)...), scanPosition, nil)
		if err != nil {
			return nil, seen, false, err
		}
	}
	rows, err := db.Query(ctx, `
		WITH found AS (
			SELECT id, last_failed_at, octet_length(body) + octet_length(attributes::text) + octet_length(reason) AS bytes
			FROM dead_letters d
			WHERE `+matches+` AND `+behind+` AND (d.last_failed_at, d.id) >= (coalesce($10::timestamptz, '-infinity'), $11::uuid)
			ORDER BY last_failed_at DESC, id DESC LIMIT $8 + 1
		), page AS (
			SELECT id FROM (SELECT id, row_number() OVER list AS n, sum(bytes) OVER list AS bytes FROM found
				WINDOW list AS (ORDER BY last_failed_at DESC, id DESC)) AS counted
			WHERE n = 1 OR n <= $8 AND bytes <= $9
		)
		SELECT `+deadLetterColumns+`, (SELECT count(*) FROM found) > (SELECT count(*) FROM page)
		FROM dead_letters WHERE tenant = $1 AND id = ANY (ARRAY(SELECT id FROM page))
		ORDER BY last_failed_at DESC, id DESC`,
		append(arguments, size, maxPageBytes, unlessZero(seen.lastFailedAt), seen.id.String())...)
	if err != nil {
		return nil, seen, false, err
	}
	letters, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (DeadLetter, error) { return scanDeadLetter(row, &more) })
	if more {
		seen = position{}
	}
	return letters, seen, more || seen != position{}, err
}

func scanPosition(row pgx.Row) (p position, err error) {
	var id string
	if err = row.Scan(&p.lastFailedAt, &id); err == nil {
		err = p.id.UnmarshalText([]byte(id))
	}
	return p, err
}

func selectDeadLetter(ctx context.Context, db pg.Querier, id string) (DeadLetter, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+deadLetterColumns+` FROM dead_letters
		WHERE tenant = $1 AND id = $2::uuid AND `+stays,
		auth.TenantOf(ctx), id), func(row pgx.Row) (DeadLetter, error) { return scanDeadLetter(row) },
		errs.New(errs.NotFound, "id: there is no dead letter %s", id))
}
