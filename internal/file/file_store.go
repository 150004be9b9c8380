package file

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/pg"
)

// fileColumns are what scanFile reads.
const fileColumns = `tenant, id::text, filename, folder, state, size, content_type, declared_content_type,
	coalesce(encode(checksum, 'hex'), ''), attributes, failure, etag, version, upload_id, created_at, expires_at`

func scanFile(row pgx.Row) (f File, err error) {
	var expires pgtype.Timestamptz
	err = row.Scan(&f.tenant, &f.ID, &f.Filename, &f.Folder, &f.State, &f.Size, &f.ContentType, &f.DeclaredType, &f.Checksum,
		&f.Attributes, &f.Failure, &f.object.ETag, &f.object.Version, &f.uploadID, &f.CreatedAt, &expires)
	f.ExpiresAt = expires.Time // Zero where it is infinite.
	return f, err
}

func expiry(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}

func object(attributes map[string]string) map[string]string {
	if attributes == nil {
		return map[string]string{}
	}
	return attributes
}

// insertFile reserves a file that is pending until its lease is over. inserted is false if there is a file with the idempotency key.
func insertFile(ctx context.Context, db *pg.Tx, id string, u Upload, reserved int64, lease time.Duration) (f File, inserted bool, err error) {
	f, err = scanFile(db.QueryRow(ctx, `
		INSERT INTO files (tenant, id, filename, folder, state, reserved, declared_content_type, attributes, idempotency_key, expires_at,
			writable_until, due_at)
		VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7, nullif($8, ''), $9, '-infinity', clock_timestamp() + $10::interval)
		ON CONFLICT (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
		RETURNING `+fileColumns,
		auth.TenantOf(ctx), id, u.Filename, u.Folder, reserved, u.DeclaredType, object(u.Attributes), u.IdempotencyKey, expiry(u.ExpiresAt), lease))
	if errors.Is(err, pgx.ErrNoRows) {
		return File{}, false, nil
	}
	return f, err == nil, err
}

func selectFile(ctx context.Context, db pg.Querier, id string) (File, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+fileColumns+` FROM files WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id),
		scanFile, errNoFile(id))
}

// selectByKey returns the file of an idempotency key.
func selectByKey(ctx context.Context, db pg.Querier, key string) (f File, found bool, err error) {
	f, err = scanFile(db.QueryRow(ctx, `SELECT `+fileColumns+` FROM files WHERE tenant = $1 AND idempotency_key = $2`, auth.TenantOf(ctx), key))
	if errors.Is(err, pgx.ErrNoRows) {
		return File{}, false, nil
	}
	return f, err == nil, err
}

// lockFile keeps all others from changing a file until the transaction ends.
func lockFile(ctx context.Context, db *pg.Tx, id string) (File, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+fileColumns+` FROM files WHERE tenant = $1 AND id = $2::uuid FOR UPDATE`, auth.TenantOf(ctx), id),
		scanFile, errNoFile(id))
}

// selectFiles returns files before an id, the latest first. The statement has the conditions of the filter alone, since the server plans
// for those that it does not need, too. The order is that of the column: id alone is what is returned, a text, which no index has.
func selectFiles(ctx context.Context, db pg.Querier, filter Filter, before string, limit int) ([]File, error) {
	where, args := filter.conditions(auth.TenantOf(ctx), before)
	args = append(args, limit)
	rows, err := db.Query(ctx, `SELECT `+fileColumns+` FROM files WHERE `+where+` ORDER BY files.id DESC LIMIT $`+strconv.Itoa(len(args)), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (File, error) { return scanFile(row) })
}

// conditions returns what files before an id must meet. Folder, prefix and states other than ready have indexes.
func (f Filter) conditions(tenant, before string) (where string, args []any) {
	all := []string{"tenant = $1", "id < $2::uuid"}
	args = []any{tenant, before}
	and := func(set bool, condition string, values ...any) {
		if !set {
			return
		}
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(args)), 1)
		}
		all = append(all, condition)
	}
	and(f.State == "", "state <> 'deleting'")
	and(f.State != "", "state = ?", string(f.State))
	and(f.State != "" && f.State != Ready, "state <> 'ready'") // The index is of these.
	first, some := strings.CutSuffix(strings.ToLower(f.ContentType), "*")
	some = some && strings.HasSuffix(first, "/")
	and(some, "starts_with(content_type, ?)", first)
	and(!some && f.ContentType != "", "split_part(content_type, ';', 1) = ?", strings.ToLower(f.ContentType))
	low, high := byPrefix(f.NamePrefix)
	and(f.NamePrefix != "", "filename ~>=~ ? AND filename ~<~ ?", low, high)
	and(f.Folder != "", `(folder COLLATE "C" = ? OR folder COLLATE "C" > ? AND folder COLLATE "C" < ?)`, f.Folder, f.Folder+"/", f.Folder+"0")
	and(!f.From.IsZero(), "created_at >= ?", f.From)
	and(!f.To.IsZero(), "created_at < ?", f.To)
	and(f.MinSize > 0, "size >= ?", f.MinSize)
	and(f.MaxSize > 0, "size <= ?", f.MaxSize)
	and(len(f.Attributes) > 0, "attributes @> ?::jsonb", f.Attributes)
	return strings.Join(all, " AND "), args
}

// byPrefix returns the bounds of what begins with a prefix, as bytes compare.
func byPrefix(prefix string) (low, high string) { return prefix, prefix + "\U0010ffff" }

// selectFolders returns the folders right below parent, after one of them. Each step of the recursion finds the next one by the
// index, past all the files below the one before: "0" is what follows "/". Where to look is a column of the step before, since the server
// does not give to an index what it computes of a row, by a function that might tell others of it, where rows belong to tenants.
func selectFolders(ctx context.Context, db pg.Querier, parent, after string, limit int) ([]string, error) {
	prefix := ""
	if parent != "" {
		prefix = parent + "/"
	}
	from := prefix
	if after != "" {
		from = after + "0"
	}
	rows, err := db.Query(ctx, `
		WITH RECURSIVE found AS (
			SELECT NULL::text COLLATE "C" AS folder, $3::text COLLATE "C" AS next, 0 AS n
			UNION ALL
			SELECT f.folder, $2 || split_part(substr(f.folder, length($2) + 1), '/', 1) || '0', n + 1
			FROM found CROSS JOIN LATERAL (
				SELECT folder COLLATE "C" AS folder FROM files
				WHERE tenant = $1 AND folder COLLATE "C" >= found.next AND folder <> '' AND starts_with(folder, $2) AND state <> 'deleting'
				ORDER BY folder COLLATE "C" LIMIT 1
			) AS f
			WHERE n < $4
		)
		SELECT $2 || split_part(substr(folder, length($2) + 1), '/', 1) FROM found WHERE n > 0 ORDER BY n`,
		auth.TenantOf(ctx), prefix, from, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// updateFile stores what clients change.
func updateFile(ctx context.Context, db *pg.Tx, f File) error {
	_, err := db.Exec(ctx, `
		UPDATE files SET filename = $3, folder = $4, attributes = $5, expires_at = $6,
			due_at = CASE state WHEN 'ready' THEN $6 ELSE due_at END
		WHERE tenant = $1 AND id = $2::uuid`,
		auth.TenantOf(ctx), f.ID, f.Filename, f.Folder, object(f.Attributes), expiry(f.ExpiresAt))
	return err
}

// markStored records what was stored of a pending file. It is verifying after that, or ready. stored is false if it was no longer
// pending.
func markStored(ctx context.Context, db *pg.Tx, id string, c content, state State) (f File, stored bool, err error) {
	return updated(db.QueryRow(ctx, `
		UPDATE files SET state = $3, size = $4, reserved = $4, checksum = $5, content_type = $6, etag = $7, version = $8, upload_id = '',
			due_at = CASE $3 WHEN 'ready' THEN expires_at ELSE 'infinity' END
		WHERE tenant = $1 AND id = $2::uuid AND state = 'pending' RETURNING `+fileColumns,
		auth.TenantOf(ctx), id, string(state), c.size, c.checksum[:], c.contentType, c.object.ETag, c.object.Version))
}

// updated returns the file of a row that an update returned; changed is false if it returned none.
func updated(row pgx.Row) (f File, changed bool, err error) {
	f, err = scanFile(row)
	if errors.Is(err, pgx.ErrNoRows) {
		return File{}, false, nil
	}
	return f, err == nil, err
}

func markReady(ctx context.Context, db *pg.Tx, id string) (File, error) {
	return scanFile(db.QueryRow(ctx, `UPDATE files SET state = 'ready', due_at = expires_at
		WHERE tenant = $1 AND id = $2::uuid RETURNING `+fileColumns, auth.TenantOf(ctx), id))
}

// markFailed fails a file that is not ready. Its object is removed at once, and again after lateWrites, before the row goes.
func markFailed(ctx context.Context, db *pg.Tx, id, why string) error {
	_, err := db.Exec(ctx, `
		UPDATE files SET state = 'failed', failure = $3, reserved = 0, idempotency_key = NULL, due_at = now(),
			writable_until = greatest(writable_until, now() + $4::interval)
		WHERE tenant = $1 AND id = $2::uuid AND state IN ('pending', 'verifying')`, auth.TenantOf(ctx), id, why, lateWrites)
	return err
}

func markDeleting(ctx context.Context, db *pg.Tx, id string) error {
	by := traceOf(ctx)
	_, err := db.Exec(ctx, `UPDATE files SET state = 'deleting', idempotency_key = NULL, due_at = now(),
			trace_parent = nullif($4, ''), trace_state = nullif($5, ''),
			writable_until = CASE state WHEN 'ready' THEN writable_until ELSE greatest(writable_until, now() + $3::interval) END
		WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id, lateWrites, by.parent, by.state)
	return err
}

// extendLease gives a pending file more time. extended is false if it is no longer pending.
func extendLease(ctx context.Context, db pg.Querier, id string, lease time.Duration) (extended bool, err error) {
	tag, err := db.Exec(ctx, `UPDATE files SET due_at = clock_timestamp() + $3::interval
		WHERE tenant = $1 AND id = $2::uuid AND state = 'pending'`, auth.TenantOf(ctx), id, lease)
	return tag.RowsAffected() > 0, err
}

// reserveMore adds to what a pending file has reserved of the quota. reserved is false if it is no longer pending.
func reserveMore(ctx context.Context, db *pg.Tx, id string, n int64) (reserved bool, err error) {
	tag, err := db.Exec(ctx, `UPDATE files SET reserved = reserved + $3 WHERE tenant = $1 AND id = $2::uuid AND state = 'pending'`,
		auth.TenantOf(ctx), id, n)
	return tag.RowsAffected() > 0, err
}

func updateUploadID(ctx context.Context, db pg.Querier, id string, upload blob.Upload) error {
	_, err := db.Exec(ctx, `UPDATE files SET upload_id = $3 WHERE tenant = $1 AND id = $2::uuid`, auth.TenantOf(ctx), id, upload.ID)
	return err
}
