package file

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// directColumns are what scanDirect reads.
const directColumns = fileColumns + `, coalesce(direct_until, '-infinity'), coalesce(encode(expected, 'hex'), ''), part_size,
	CASE state WHEN 'pending' THEN reserved ELSE size END, coalesce(trace_parent, ''), coalesce(trace_state, '')`

func scanDirect(row pgx.Row) (d Direct, err error) {
	var until pgtype.Timestamptz
	d.File, err = scanFile(withMore{row, []any{&until, &d.expected, &d.PartSize, &d.size, &d.trace.parent, &d.trace.state}})
	d.Until = until.Time // Zero where it is infinite.
	return d, err
}

// selectDirect returns a file with what is known of its upload. Its Until is zero if it came by another way.
func selectDirect(ctx context.Context, db pg.Querier, id string) (Direct, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+directColumns+` FROM files WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id),
		scanDirect, errNoFile(id))
}

// markDirect makes a file that was reserved an upload by URL, for a time. Requests for it may arrive for longer than that, unless
// they are for parts, which go with the upload.
func markDirect(ctx context.Context, db *pg.Tx, id string, u Upload, partSize int64, valid time.Duration) (Direct, error) {
	late := valid + lateDirect
	if partSize > 0 {
		late = 0
	}
	return scanDirect(db.QueryRow(ctx, `
		UPDATE files SET expected = decode(nullif($3, ''), 'hex'), part_size = $4, direct_until = clock_timestamp() + $5::interval,
			due_at = clock_timestamp() + $5::interval,
			writable_until = CASE WHEN $6::interval > '0' THEN clock_timestamp() + $6::interval ELSE writable_until END
		WHERE tenant = $1 AND id = $2::uuid RETURNING `+directColumns,
		auth.TenantOf(ctx), id, u.Checksum, partSize, valid, late))
}

// refuseGivenUp returns an error if the tenant has most files that are kept because a request for them may still arrive.
func refuseGivenUp(ctx context.Context, db *pg.Tx, most int) error {
	var n int
	err := db.QueryRow(ctx, `SELECT count(*) FROM (
			SELECT FROM files WHERE tenant = $1 AND writable_until > now() AND direct_until IS NOT NULL AND state IN ('deleting', 'failed') LIMIT $2
		) AS given_up`, auth.TenantOf(ctx), most).Scan(&n)
	if err == nil && n >= most {
		err = errs.New(errs.ResourceExhausted, "%d uploads by URL were given up or deleted, and their URLs have not expired; try again later", n)
	}
	return err
}

// beginParts records an upload in parts. begun is false if another one was recorded, or the file is no longer pending.
func beginParts(ctx context.Context, db pg.Querier, id string, upload blob.Upload) (begun bool, err error) {
	tag, err := db.Exec(ctx, `UPDATE files SET upload_id = $3 WHERE tenant = $1 AND id = $2::uuid AND state = 'pending' AND upload_id = ''`,
		auth.TenantOf(ctx), id, upload.ID)
	return tag.RowsAffected() > 0, err
}

// markUnverified records what was stored of a pending file whose SHA-256 is still to be found out, and the trace that ctx belongs to.
// stored is false if it was no longer pending.
func markUnverified(ctx context.Context, db *pg.Tx, id string, c content) (f File, stored bool, err error) {
	from := traceOf(ctx)
	return updated(db.QueryRow(ctx, `
		UPDATE files SET state = 'verifying', size = $3, reserved = $3, content_type = $4, etag = $5, version = $6, upload_id = '',
			due_at = 'infinity', verify_at = now(), trace_parent = nullif($7, ''), trace_state = nullif($8, '')
		WHERE tenant = $1 AND id = $2::uuid AND state = 'pending' RETURNING `+fileColumns,
		auth.TenantOf(ctx), id, c.size, c.contentType, c.object.ETag, c.object.Version, from.parent, from.state))
}

// markVerified records the SHA-256 of a file that was read. It is verifying after that, or ready. verified is false if it was not
// to be verified any more.
func markVerified(ctx context.Context, db *pg.Tx, id string, checksum []byte, state State) (f File, verified bool, err error) {
	return updated(db.QueryRow(ctx, `
		UPDATE files SET state = $3, checksum = $4, verify_at = 'infinity', trace_parent = NULL, trace_state = NULL, due_at = CASE $3 WHEN 'ready' THEN expires_at ELSE 'infinity' END
		WHERE tenant = $1 AND id = $2::uuid AND state = 'verifying' AND checksum IS NULL RETURNING `+fileColumns,
		auth.TenantOf(ctx), id, string(state), checksum))
}

// claimUnverified takes over a file that is to be read, for the duration of a lease, or none. It is of a tenant of whose files the
// fewest are being read, and there the one that has waited the longest.
func claimUnverified(ctx context.Context, db *pg.System) ([]Direct, error) {
	rows, err := db.Query(ctx, `
		WITH RECURSIVE tenants AS (
			(SELECT tenant FROM files WHERE verify_at < 'infinity' ORDER BY tenant LIMIT 1)
			UNION ALL
			SELECT (SELECT f.tenant FROM files f WHERE f.verify_at < 'infinity' AND f.tenant > t.tenant ORDER BY f.tenant LIMIT 1)
			FROM tenants t WHERE t.tenant IS NOT NULL
		), next AS (
			SELECT f.tenant, f.id FROM tenants t
			CROSS JOIN LATERAL (SELECT tenant, id, verify_at FROM files WHERE tenant = t.tenant AND verify_at < 'infinity' AND verify_at <= now() ORDER BY verify_at LIMIT 1) f
			CROSS JOIN LATERAL (SELECT count(*) AS reading FROM files WHERE tenant = t.tenant AND verify_at > now() AND verify_at < 'infinity') r
			ORDER BY r.reading, f.verify_at LIMIT 1
		)
		UPDATE files SET verify_at = clock_timestamp() + $1::interval
		WHERE (tenant, id) = (SELECT tenant, id FROM next) AND verify_at <= now() RETURNING `+directColumns, verifyLease)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Direct, error) { return scanDirect(row) })
}

// unverifiedLate is for how long the file that has waited the longest is to be read.
const unverifiedLate = `SELECT coalesce(now() - min(verify_at), '-1 hour') FROM files WHERE verify_at < 'infinity'`

func selectUnverifiedLate(ctx context.Context, db *pg.System) (late time.Duration, err error) {
	err = db.QueryRow(ctx, unverifiedLate).Scan(&late)
	return late, err
}

// verifyAt sets when a file is to be read; the zero time is never. changed is false if it is not to be read any more.
func verifyAt(ctx context.Context, db pg.Querier, id string, at time.Time) (changed bool, err error) {
	tag, err := db.Exec(ctx, `UPDATE files SET verify_at = $3::timestamptz
		WHERE tenant = $1 AND id = $2::uuid AND verify_at < 'infinity' AND (state = 'verifying' OR $3::timestamptz = 'infinity')`, auth.TenantOf(ctx), id, expiry(at))
	return tag.RowsAffected() > 0, err
}
