package file

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// insertResumable makes a pending file an upload that can be continued until it expires.
func insertResumable(ctx context.Context, db *pg.Tx, id string, length int64, digest []byte, expected, metadata string, within time.Duration) error {
	_, err := db.Exec(ctx, `INSERT INTO file_uploads (tenant, id, length, digest, expected, metadata)
		VALUES ($1, $2::uuid, nullif($3, -1), $4, $5, $6)`, auth.TenantOf(ctx), id, length, digest, expected, metadata)
	if err == nil {
		_, err = db.Exec(ctx, `UPDATE files SET due_at = clock_timestamp() + $3::interval WHERE tenant = $1 AND id = $2::uuid AND state = 'pending'`,
			auth.TenantOf(ctx), id, within)
	}
	return err
}

// selectResumable returns an upload as it is at the moment. Errors: NotFound.
func selectResumable(ctx context.Context, db pg.Querier, id string) (Resumable, error) {
	return pg.One(db.QueryRow(ctx, `
		SELECT `+fileColumns+`, reserved, due_at, due_at <= clock_timestamp(), coalesce(length, -1), received, digest, u.expected, metadata, token,
			lease_until > clock_timestamp()
		FROM files JOIN file_uploads u USING (tenant, id) WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id),
		func(row pgx.Row) (r Resumable, err error) {
			var due pgtype.Timestamptz
			r.File, err = scanFile(withMore{row, []any{
				&r.reserved, &due, &r.expired, &r.Length, &r.Received, &r.digest, &r.expected, &r.Metadata, &r.token, &r.leased,
			}})
			r.ExpiresAt = due.Time
			return r, err
		}, errNoUpload(id))
}

// takeUpload takes the lease of an upload, with a new token. taken is false if somebody has it, who is then told that it is wanted.
func takeUpload(ctx context.Context, db pg.Querier, id string, lease time.Duration) (token int64, taken bool, err error) {
	err = db.QueryRow(ctx, `
		UPDATE file_uploads SET token = token + 1, lease_until = clock_timestamp() + $3::interval, wanted = false
		WHERE tenant = $1 AND id = $2::uuid AND lease_until <= clock_timestamp() RETURNING token`,
		auth.TenantOf(ctx), id, lease).Scan(&token)
	if !errors.Is(err, pgx.ErrNoRows) {
		return token, err == nil, err
	}
	return 0, false, wantUpload(ctx, db, id)
}

// wantUpload tells who has the lease of an upload that somebody waits for it.
func wantUpload(ctx context.Context, db pg.Querier, id string) error {
	_, err := db.Exec(ctx, `UPDATE file_uploads SET wanted = true WHERE tenant = $1 AND id = $2::uuid AND NOT wanted AND lease_until > clock_timestamp()`,
		auth.TenantOf(ctx), id)
	return err
}

// renewUpload extends a lease. held is false if it is no longer the latest one.
func renewUpload(ctx context.Context, db pg.Querier, id string, token int64, lease time.Duration) (held, wanted bool, err error) {
	err = db.QueryRow(ctx, `UPDATE file_uploads SET lease_until = clock_timestamp() + $4::interval
		WHERE tenant = $1 AND id = $2::uuid AND token = $3 RETURNING wanted`, auth.TenantOf(ctx), id, token, lease).Scan(&wanted)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, false, nil
	}
	return err == nil, wanted, err
}

// releaseUpload ends a lease.
func releaseUpload(ctx context.Context, db pg.Querier, id string, token int64) error {
	_, err := db.Exec(ctx, `UPDATE file_uploads SET lease_until = clock_timestamp() WHERE tenant = $1 AND id = $2::uuid AND token = $3`,
		auth.TenantOf(ctx), id, token)
	return err
}

// refuseUpload ends a lease before its time, so that whoever has it can store no more.
func refuseUpload(ctx context.Context, db *pg.Tx, id string) error {
	_, err := db.Exec(ctx, `UPDATE file_uploads SET token = token + 1, lease_until = clock_timestamp() WHERE tenant = $1 AND id = $2::uuid`,
		auth.TenantOf(ctx), id)
	return err
}

// nextPart returns a number that no part of the upload has had. held is false if the lease is no longer the latest one.
func nextPart(ctx context.Context, db pg.Querier, id string, token int64) (number int32, held bool, err error) {
	err = db.QueryRow(ctx, `UPDATE file_uploads SET next_part = next_part + 1
		WHERE tenant = $1 AND id = $2::uuid AND token = $3 RETURNING next_part - 1`, auth.TenantOf(ctx), id, token).Scan(&number)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return number, err == nil, err
}

// lockPending keeps a file pending for another while, until the transaction ends and after it. pending is false if it is not.
func lockPending(ctx context.Context, db *pg.Tx, id string, within time.Duration) (due time.Time, pending bool, err error) {
	err = db.QueryRow(ctx, `UPDATE files SET due_at = clock_timestamp() + $3::interval
		WHERE tenant = $1 AND id = $2::uuid AND state = 'pending' RETURNING due_at`, auth.TenantOf(ctx), id, within).Scan(&due)
	if errors.Is(err, pgx.ErrNoRows) {
		return due, false, nil
	}
	return due, err == nil, err
}

// updateResumable records how far an upload is.
func updateResumable(ctx context.Context, db *pg.Tx, r *Resumable) error {
	_, err := db.Exec(ctx, `UPDATE file_uploads SET received = $3, digest = $4, length = nullif($5, -1) WHERE tenant = $1 AND id = $2::uuid`,
		auth.TenantOf(ctx), r.File.ID, r.Received, r.digest, r.Length)
	return err
}

// replaceTails puts pieces in the place of those that wait to become a part.
func replaceTails(ctx context.Context, db *pg.Tx, id string, pieces []piece) error {
	if _, err := db.Exec(ctx, `DELETE FROM file_upload_pieces WHERE tenant = $1 AND id = $2::uuid AND part = 0`, auth.TenantOf(ctx), id); err != nil {
		return err
	}
	for _, p := range pieces {
		_, err := db.Exec(ctx, `INSERT INTO file_upload_pieces (tenant, id, start, size, part, key, etag, version)
			VALUES ($1, $2::uuid, $3, $4, $5, $6, $7, $8)`, auth.TenantOf(ctx), id, p.start, p.size, p.part, p.ref.Key, p.ref.ETag, p.ref.Version)
		if err != nil {
			return err
		}
	}
	return nil
}

// selectPieces returns the parts of an upload, or else what waits to become one, in the order of the content.
func selectPieces(ctx context.Context, db pg.Querier, id string, parts bool) ([]piece, error) {
	rows, err := db.Query(ctx, `SELECT start, size, part, key, etag, version FROM file_upload_pieces
		WHERE tenant = $1 AND id = $2::uuid AND (part > 0) = $3 ORDER BY start`, auth.TenantOf(ctx), id, parts)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p piece, err error) {
		p.recorded = true
		err = row.Scan(&p.start, &p.size, &p.part, &p.ref.Key, &p.ref.ETag, &p.ref.Version)
		return p, err
	})
}

// isActive reports whether an upload was continued since a worker claimed its file, for the duration of a lease.
func isActive(ctx context.Context, db *pg.Tx, id string, lease time.Duration) (active bool, err error) {
	err = db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM files JOIN file_uploads USING (tenant, id) WHERE tenant = $1 AND id = $2::uuid
			AND (due_at - $3::interval > clock_timestamp() OR lease_until > due_at - $3::interval))`, auth.TenantOf(ctx), id, lease).Scan(&active)
	return active, err
}

// selectEnded returns uploads that nobody has continued for a while and whose files are no longer pending, of all tenants.
func selectEnded(ctx context.Context, db *pg.System, since time.Duration, limit int) ([]File, error) {
	rows, err := db.Query(ctx, `
		SELECT u.tenant, u.id::text FROM file_uploads u LEFT JOIN files f USING (tenant, id)
		WHERE u.lease_until < now() - $1::interval AND f.state IS DISTINCT FROM 'pending' ORDER BY u.lease_until LIMIT $2`, since, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f File, err error) {
		err = row.Scan(&f.tenant, &f.ID)
		return f, err
	})
}

func deleteResumable(ctx context.Context, db pg.Querier, id string) error {
	_, err := db.Exec(ctx, `
		WITH pieces AS (DELETE FROM file_upload_pieces WHERE tenant = $1 AND id = $2::uuid)
		DELETE FROM file_uploads WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id)
	return err
}
