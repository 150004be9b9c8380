package pg

import (
	"cmp"
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"plinth/internal/auth"
)

// The roles that statements run in. Neither owns a table, so row level security applies to both (migration 3).
const (
	appRole    = "plinth_app"
	systemRole = "plinth_system"
)

// noTenant is set if the context has no tenant. No tenant can have this name; an empty one would match rows of a tenant with
// an empty name.
const noTenant = "-"

func tenantOf(ctx context.Context) string { return cmp.Or(auth.TenantOf(ctx), noTenant) }

// usingIndexes has statements planned for the indexes. Tables are empty one moment and full the next, and the server keeps plans: the one for
// an empty table is to read the whole. What a scan that is left adds to the estimated cost must not have the server compile the statement.
const usingIndexes = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off"

// begin returns the statement that begins a transaction. The role, tenant and settings that it makes end with the
// transaction, so that a connection which returns to the pool, or to a pooler's, has none of them. All of it is one message
// to the server.
func (p *pool) begin(ctx context.Context) string {
	var sql strings.Builder
	sql.WriteString("BEGIN; " + usingIndexes)
	set := func(name, value string) {
		if value != "" {
			sql.WriteString("; SET LOCAL " + name + " = " + quote(value))
		}
	}
	if p.system {
		set("role", systemRole)
	} else {
		set("role", appRole)
		set("plinth.tenant", tenantOf(ctx))
	}
	set("statement_timeout", p.timeouts.statement)
	set("idle_in_transaction_session_timeout", p.timeouts.idle)
	return sql.String()
}

// scopeSQL is what begin sets, for a statement that is a transaction of its own.
const scopeSQL = `SELECT set_config('role', $1, true), set_config('plinth.tenant', $2, true),
	set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`

// quote returns s as a literal that means the same under either value of the server's standard_conforming_strings.
func quote(s string) string {
	return "E'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", "''") + "'"
}

// send runs one statement in a transaction of its own, with role and tenant as in any other. Both statements go to the
// server in one batch.
func (p *pool) send(ctx context.Context, sql string, args []any) (pgx.BatchResults, error) {
	role, tenant := appRole, tenantOf(ctx)
	if p.system {
		role, tenant = systemRole, ""
	}
	batch := &pgx.Batch{}
	if p.timeouts.statement == "" {
		batch.Queue(scopeSQL, role, tenant)
	} else {
		batch.Queue(scopeSQL+`, set_config('statement_timeout', $3, true)`, role, tenant, p.timeouts.statement)
	}
	batch.Queue(sql, args...)
	release, err := p.turn(ctx)
	if err != nil {
		return nil, err
	}
	results := &turnResults{p.conns.SendBatch(ctx, batch), release}
	if _, err := results.Exec(); err != nil {
		_ = results.Close()
		return nil, driverError(err)
	}
	return results, nil
}

// Exec runs one statement.
func (p *pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	results, err := p.send(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	if closed := results.Close(); err == nil { // The transaction is committed only now.
		err = closed
	}
	return tag, driverError(err)
}

// Query runs one statement that returns rows. The rows hold a connection until they are read to the end or closed.
func (p *pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	results, err := p.send(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	r, err := results.Query()
	if err != nil {
		_ = results.Close()
		return nil, driverError(err)
	}
	return &rows{Rows: r, results: results}, nil
}

// QueryRow runs one statement that returns at most one row; Scan returns pgx.ErrNoRows if there is none.
func (p *pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	results, err := p.send(ctx, sql, args)
	return row{results, err}
}

// rows and row end the transaction after the last row, and classify errors that occur after it began.
type rows struct {
	pgx.Rows
	results pgx.BatchResults
	err     error
}

func (r *rows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *rows) Close() {
	r.Rows.Close()
	if err := r.results.Close(); r.err == nil {
		r.err = err
	}
}

func (r *rows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return driverError(err)
	}
	return driverError(r.err)
}

type row struct {
	results pgx.BatchResults
	err     error
}

func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	err := r.results.QueryRow().Scan(dest...)
	if closed := r.results.Close(); err == nil {
		err = closed
	}
	return driverError(err)
}
