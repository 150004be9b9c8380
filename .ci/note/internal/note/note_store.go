package note

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// expiryBatch is how many notes are deleted in one transaction.
const expiryBatch = 1000

// noteColumns are what scanNote reads.
const noteColumns = `id::text, text, created_at, expires_at`

func scanNote(row pgx.Row) (n Note, err error) {
	var expires pgtype.Timestamptz
	err = row.Scan(&n.ID, &n.Text, &n.CreatedAt, &expires)
	n.ExpiresAt = expires.Time // Zero where it is infinite.
	return n, err
}

func expiry(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}

func insertNote(ctx context.Context, db *pg.Tx, n Note) (Note, error) {
	return scanNote(db.QueryRow(ctx, `INSERT INTO notes (tenant, id, text, expires_at) VALUES ($1, $2, $3, $4) RETURNING `+noteColumns,
		auth.TenantOf(ctx), n.ID, n.Text, expiry(n.ExpiresAt)))
}

func selectNote(ctx context.Context, db pg.Querier, id string) (Note, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+noteColumns+` FROM notes WHERE tenant = $1 AND id = $2`, auth.TenantOf(ctx), id),
		scanNote, errNoNote(id))
}

// lockNote keeps all others from changing a note until the transaction ends.
func lockNote(ctx context.Context, db *pg.Tx, id string) (Note, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+noteColumns+` FROM notes WHERE tenant = $1 AND id = $2 FOR UPDATE`, auth.TenantOf(ctx), id),
		scanNote, errNoNote(id))
}

// selectNotes returns those before an id, the latest first.
func selectNotes(ctx context.Context, db pg.Querier, before string, limit int) ([]Note, error) {
	rows, err := db.Query(ctx, `SELECT `+noteColumns+` FROM notes WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3`,
		auth.TenantOf(ctx), before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Note, error) { return scanNote(row) })
}

func updateNote(ctx context.Context, db *pg.Tx, n Note) error {
	_, err := db.Exec(ctx, `UPDATE notes SET text = $3, expires_at = $4 WHERE tenant = $1 AND id = $2`,
		auth.TenantOf(ctx), n.ID, n.Text, expiry(n.ExpiresAt))
	return err
}

func deleteNote(ctx context.Context, db pg.Querier, id string) (deleted bool, err error) {
	tag, err := db.Exec(ctx, `DELETE FROM notes WHERE tenant = $1 AND id = $2`, auth.TenantOf(ctx), id)
	return tag.RowsAffected() == 1, err
}

// deleteExpired deletes notes of all tenants that have expired, expiryBatch of them at most.
func deleteExpired(ctx context.Context, db *pg.System) (n int64, err error) {
	tag, err := db.Exec(ctx, `DELETE FROM notes WHERE (tenant, id) IN (
		SELECT tenant, id FROM notes WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)`, expiryBatch)
	return tag.RowsAffected(), err
}
