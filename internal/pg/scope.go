package pg

import (
	"cmp"
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"plinth/internal/auth"
)

// The roles that statements act in. Neither owns a table, so row level security holds for both (migration 3).
const (
	appRole    = "plinth_app"
	systemRole = "plinth_system"
)

// noTenant is set where nobody acts. No tenant has such a name; an empty one would allow rows of an empty tenant.
const noTenant = "-"

func tenantOf(ctx context.Context) string { return cmp.Or(auth.TenantOf(ctx), noTenant) }

// begin is how a transaction begins: its role, tenant and time limits end with it, so that a connection which goes back to
// the pool, or a pooler's, has none of them. All of it is one message to the server.
func (p *pool) begin(ctx context.Context) string {
	var sql strings.Builder
	sql.WriteString("BEGIN")
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

const scopeSQL = `SELECT set_config('role', $1, true), set_config('plinth.tenant', $2, true)`

// quote makes a literal that means the same whatever the server's standard_conforming_strings.
func quote(s string) string {
	return "E'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", "''") + "'"
}

// send runs one statement in a transaction of its own, which has its role and tenant like any other: the server gets the
// two statements at once.
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
	results := p.conns.SendBatch(ctx, batch)
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
	if closed := results.Close(); err == nil { // It is committed only now.
		err = closed
	}
	return tag, driverError(err)
}

// Query runs one statement that gives rows. The rows hold a connection until they are read to their end or closed.
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

// QueryRow runs one statement that gives at most one row; Scan gives pgx.ErrNoRows when there was none.
func (p *pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	results, err := p.send(ctx, sql, args)
	return row{results, err}
}

// rows and row end the transaction with the last row, and classify the errors that come after it has begun.
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
