package file

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/pg"
)

const previewColumns = `width, state, refusal, attempts, size, coalesce(encode(checksum, 'hex'), ''), etag, version, created_at`

func scanPreview(row pgx.Row) (p preview, err error) {
	err = row.Scan(&p.width, &p.state, &p.refusal, &p.attempts, &p.size, &p.checksum, &p.object.ETag, &p.object.Version, &p.createdAt)
	return p, err
}

// wantPreview returns a preview of a file, or asks for it if nobody has. wanted is false if the tenant asks for too many.
func wantPreview(ctx context.Context, db *pg.Tx, id string, width, most int) (p preview, fresh, wanted bool, err error) {
	if p, found, err := selectPreview(ctx, db, id, width); found || err != nil {
		return p, false, true, err
	}
	tag, err := db.Exec(ctx, `
		INSERT INTO file_previews (tenant, id, width) SELECT $1, $2::uuid, $3
		WHERE (SELECT count(*) FROM (SELECT FROM file_previews WHERE tenant = $1 AND due_at < 'infinity' LIMIT $4) AS many) < $4
		ON CONFLICT DO NOTHING`, auth.TenantOf(ctx), id, width, most)
	if err != nil {
		return p, false, false, err
	}
	p, found, err := selectPreview(ctx, db, id, width)
	return p, tag.RowsAffected() > 0, found, err
}

func selectPreview(ctx context.Context, db pg.Querier, id string, width int) (p preview, found bool, err error) {
	p, err = scanPreview(db.QueryRow(ctx, `SELECT `+previewColumns+` FROM file_previews WHERE tenant = $1 AND id = $2::uuid AND width = $3`,
		auth.TenantOf(ctx), id, width))
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	return p, err == nil, err
}

// claimPreview takes over a preview that is due, of any tenant, for the duration of a lease.
func claimPreview(ctx context.Context, db *pg.System, lease time.Duration) (tenant, id string, p preview, found bool, err error) {
	p, err = scanPreview(into{db.QueryRow(ctx, `
		UPDATE file_previews SET due_at = clock_timestamp() + $1::interval, attempts = attempts + 1
		WHERE (tenant, id, width) IN (SELECT tenant, id, width FROM file_previews WHERE due_at < 'infinity' AND due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING tenant, id::text, `+previewColumns, lease), []any{&tenant, &id}})
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", p, false, nil
	}
	return tenant, id, p, err == nil, err
}

// into scans more columns before those of a row's own.
type into struct {
	pgx.Row
	first []any
}

func (r into) Scan(dest ...any) error { return r.Row.Scan(append(r.first, dest...)...) }

// previewsLate is for how long the earliest preview has been due. It is negative if that is not due yet, or there is none.
const previewsLate = `SELECT coalesce(now() - min(due_at), '-1 hour') FROM file_previews WHERE due_at < 'infinity'`

func selectPreviewsLate(ctx context.Context, db *pg.System) (late time.Duration, err error) {
	err = db.QueryRow(ctx, previewsLate).Scan(&late)
	return late, err
}

// markMade records a preview that was stored.
func markMade(ctx context.Context, db *pg.Tx, id string, width int, size int64, checksum []byte, object blob.Ref) error {
	_, err := db.Exec(ctx, `
		UPDATE file_previews SET state = 'ready', size = $4, checksum = $5, etag = $6, version = $7, due_at = 'infinity', created_at = now()
		WHERE tenant = $1 AND id = $2::uuid AND width = $3`, auth.TenantOf(ctx), id, width, size, checksum, object.ETag, object.Version)
	return err
}

// markRefused records that there is no preview of a file, and why.
func markRefused(ctx context.Context, db pg.Querier, id string, width int, why string) error {
	_, err := db.Exec(ctx, `UPDATE file_previews SET state = 'refused', refusal = $4, due_at = 'infinity' WHERE tenant = $1 AND id = $2::uuid AND width = $3`,
		auth.TenantOf(ctx), id, width, why)
	return err
}

func postponePreview(ctx context.Context, db pg.Querier, id string, width int, at time.Time) error {
	_, err := db.Exec(ctx, `UPDATE file_previews SET due_at = $4 WHERE tenant = $1 AND id = $2::uuid AND width = $3`, auth.TenantOf(ctx), id, width, at)
	return err
}

func deletePreviews(ctx context.Context, db pg.Querier, id string) error {
	_, err := db.Exec(ctx, `DELETE FROM file_previews WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id)
	return err
}
