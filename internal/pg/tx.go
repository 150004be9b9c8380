package pg

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Tx is a transaction that InTx begins and ends. Functions that lock rows take a *Tx, since a lock lasts as long as its
// transaction.
type Tx struct {
	tx     pgx.Tx
	before *[]func()
	after  *[]func()
}

// InTx runs fn in a transaction and commits it. If fn returns an error or panics, or ctx ends, everything is rolled back;
// the panic continues. An errs.Unavailable may come from the commit itself: then the outcome is unknown.
func (p *pool) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	release, err := p.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	begun, err := p.conns.BeginTx(ctx, pgx.TxOptions{BeginQuery: p.begin(ctx)})
	if err != nil {
		return driverError(err)
	}
	tx := &Tx{tx: begun, before: new([]func()), after: new([]func())}
	// Rolling back after a commit does nothing. A cancelled request must not leave its locks to a timeout, nor cost the pool
	// a connection.
	defer rollback(ctx, begun)
	if err := fn(tx); err != nil {
		return classify(err, begun.Conn().IsClosed())
	}
	for _, f := range *tx.before {
		f()
	}
	if err := begun.Commit(ctx); err != nil {
		return driverError(err)
	}
	for _, f := range *tx.after {
		f()
	}
	return nil
}

func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// AfterCommit registers f to be called after the transaction is committed, in the order of the calls. f is never called if
// the transaction is rolled back.
func (tx *Tx) AfterCommit(f func()) { *tx.after = append(*tx.after, f) }

// BeforeCommit registers f to be called when nothing but the commit is left to do, in the order of the calls. It holds up the
// commit, so it must be short. f is never called if the transaction is rolled back before that; the commit may still fail.
func (tx *Tx) BeforeCommit(f func()) { *tx.before = append(*tx.before, f) }

// InTx runs fn within a savepoint: if fn returns an error or panics, only the work of fn is undone, including its
// BeforeCommit and AfterCommit calls, and the transaction can go on.
func (tx *Tx) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	savepoint, err := tx.tx.Begin(ctx)
	if err != nil {
		return driverError(err)
	}
	defer rollback(ctx, savepoint)
	inner := &Tx{tx: savepoint, before: new([]func()), after: new([]func())}
	if err := fn(inner); err != nil {
		return err
	}
	if err := savepoint.Commit(ctx); err != nil {
		return driverError(err)
	}
	*tx.before = append(*tx.before, *inner.before...)
	*tx.after = append(*tx.after, *inner.after...)
	return nil
}

// Exec runs a statement.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return tx.tx.Exec(ctx, sql, args...)
}

// Query runs a statement that returns rows.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return tx.tx.Query(ctx, sql, args...)
}

// QueryRow runs a statement that returns at most one row; Scan returns pgx.ErrNoRows if there is none.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return tx.tx.QueryRow(ctx, sql, args...)
}

// SendBatch runs many statements in one message to the server.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return tx.tx.SendBatch(ctx, b)
}

// CopyFrom copies rows into a table.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return tx.tx.CopyFrom(ctx, table, columns, rows)
}

// One scans a row. If there is no row, it returns the error missing.
func One[T any](row pgx.Row, scan func(pgx.Row) (T, error), missing error) (T, error) {
	v, err := scan(row)
	if errors.Is(err, pgx.ErrNoRows) {
		var zero T
		return zero, missing
	}
	return v, err
}
