package pg_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// rows has the statements that create a row of a tenant, $1, in tables that tenants share. For a table that is not listed
// here, row creates any row.
var rows = map[string]string{
	"queues":         `INSERT INTO queues (tenant, name) VALUES ($1, 'q')`,
	"queue_bindings": `INSERT INTO queue_bindings (tenant, queue, topic, pattern) VALUES ($1, 'q', 't', '#')`,
	"queue_depths":   `INSERT INTO queue_depths (tenant, queue, messages) VALUES ($1, 'q', 1)`,
	"queue_pushes": `INSERT INTO queue_pushes (tenant, queue, worker, breaker, outstanding, concurrency, latency, last_error)
		VALUES ($1, 'q', gen_random_uuid(), '', 0, 0, '1 s', '')`,
	"dead_letter_operations": `INSERT INTO dead_letter_operations (tenant, id, kind, queue, state, principal, max_per_second, total)
		VALUES ($1, '0198c0de-0000-7000-8000-000000000000', 'purge', 'q', 'planned', '', 0, 0)`,
	"dead_letter_operation_items": `INSERT INTO dead_letter_operation_items (tenant, operation_id, n, dead_letter_id)
		VALUES ($1, '0198c0de-0000-7000-8000-000000000000', 1, gen_random_uuid())`,
}

// uncounted disables the triggers by which rows of the tables create other rows.
func uncounted(t *testing.T, owner pg.Querier, tables []string) {
	t.Helper()
	for _, table := range tables {
		exec(t, owner, `ALTER TABLE `+table+` DISABLE TRIGGER USER`)
	}
}

// parents are created first and deleted last.
var parents = []string{"queues", "dead_letter_operations"}

// values has a value for each column type that row knows.
var values = map[string]string{
	"text": `'x'`, "text[]": `'{}'`, "uuid": `gen_random_uuid()`, "timestamp with time zone": `now()`, "interval": `'1 s'`,
	"bytea": `''`, "json": `'{}'`, "jsonb": `'{}'`, "smallint": `1`, "integer": `1`, "bigint": `1`, "boolean": `false`,
}

// row returns a statement that creates a row of a tenant, $1, in a table: the one in rows if there is one, else one with a
// value for each column that needs one. A table with constraints on its values, or with a type that is not in values, needs
// an entry in rows.
func row(t *testing.T, owner pg.Querier, table string) string {
	t.Helper()
	if sql := rows[table]; sql != "" {
		return sql
	}
	needed := scalar[[]string](t, owner, `
		SELECT coalesce(array_agg(attname || ' ' || format_type(atttypid, NULL) ORDER BY attnum), '{}') FROM pg_attribute
		WHERE attrelid = '`+table+`'::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef
			AND attidentity = '' AND attname <> 'tenant'`)
	columns, list := "tenant", "$1"
	for _, column := range needed {
		name, kind, _ := strings.Cut(column, " ")
		if values[kind] == "" {
			t.Fatalf("%s.%s is a %s: make a row of that table in rows", table, name, kind)
		}
		columns, list = columns+", "+name, list+", "+values[kind]
	}
	return `INSERT INTO ` + table + ` (` + columns + `) VALUES (` + list + `)`
}

// isolated returns the tables with a policy of that name, parents first.
func isolated(t *testing.T, db pg.Querier, policy string) (tables []string) {
	t.Helper()
	found, err := db.Query(patient(t), `SELECT tablename FROM pg_policies WHERE policyname = $1 ORDER BY tablename <> ALL ($2), 1`, policy, parents)
	if err == nil {
		tables, err = pgx.CollectRows(found, pgx.RowTo[string])
	}
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables: %v %v", tables, err)
	}
	return tables
}

// database is a pool in either role.
type database interface {
	pg.Querier
	InTx(ctx context.Context, fn func(tx *pg.Tx) error) error
	Pool() *pgxpool.Pool
}

// scopes are the two ways to run statements: one by one, and in a transaction.
func scopes(db *pg.DB) map[string]func(ctx context.Context, f func(q pg.Querier) error) error {
	return map[string]func(ctx context.Context, f func(q pg.Querier) error) error{
		"alone": func(_ context.Context, f func(q pg.Querier) error) error { return f(db) },
		"in a transaction": func(ctx context.Context, f func(q pg.Querier) error) error {
			return db.InTx(ctx, func(tx *pg.Tx) error { return f(tx) })
		},
	}
}

// TestTenantsSeeTheirOwnRowsAlone runs SQL without a condition on the tenant, as if somebody had forgotten it.
func TestTenantsSeeTheirOwnRowsAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, owner := open(t, pg.Config{URL: url}), pgtest.Owner(t, url)
	tables := isolated(t, owner, "tenant")
	uncounted(t, owner, tables)
	for _, table := range tables {
		for _, tenant := range []string{"a", "b"} {
			exec(t, owner, row(t, owner, table), tenant)
		}
	}
	for how, scope := range scopes(db) {
		for tenant, want := range map[string][]string{"a": {"a"}, "b": {"b"}, "c": nil, "": nil} {
			for _, table := range tables {
				var seen []string
				var touched int64
				err := scope(as(t, tenant), func(q pg.Querier) error {
					found, err := q.Query(as(t, tenant), `SELECT tenant FROM `+table)
					if err != nil {
						return err
					}
					if seen, err = pgx.CollectRows(found, pgx.RowTo[string]); err != nil {
						return err
					}
					tag, err := q.Exec(as(t, tenant), `UPDATE `+table+` SET tenant = tenant`)
					touched = tag.RowsAffected()
					return err
				})
				if err != nil || !slices.Equal(seen, want) || touched != int64(len(want)) {
					t.Errorf("%s %s: tenant %q sees %q and updates %d, error %v", table, how, tenant, seen, touched, err)
				}
			}
		}
		if seen := scalar[string](t, db.System(), `SELECT string_agg(tenant, '' ORDER BY tenant) FROM queues`); seen != "ab" {
			t.Errorf("the system sees %q %s", seen, how)
		}
	}
}

func TestTenantsWriteTheirOwnRowsAlone(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, owner := open(t, pg.Config{URL: url}), pgtest.Owner(t, url)
	tables := isolated(t, owner, "tenant")
	uncounted(t, owner, tables)
	count := func(table string) int { return scalar[int](t, owner, `SELECT count(*) FROM `+table) }
	for how, scope := range scopes(db) {
		write := func(tenant, sql string, args ...any) (n int64, err error) {
			err = scope(as(t, tenant), func(q pg.Querier) error {
				tag, err := q.Exec(as(t, tenant), sql, args...)
				n = tag.RowsAffected()
				return err
			})
			return n, err
		}
		for _, table := range tables {
			insert := row(t, owner, table)
			for _, forged := range [][2]string{{"", "a"}, {"", ""}, {"b", "a"}, {"b", ""}} {
				if _, err := write(forged[0], insert, forged[1]); code(err) != "42501" {
					t.Errorf("%s %s: tenant %q makes a row of %q: %v", table, how, forged[0], forged[1], err)
				}
			}
			if _, err := write("a", insert, "a"); err != nil {
				t.Errorf("%s %s: tenant a makes a row of its own: %v", table, how, err)
			}
			if _, err := write("a", `UPDATE `+table+` SET tenant = 'b'`); code(err) != "42501" {
				t.Errorf("%s %s: tenant a gives its row away: %v", table, how, err)
			}
			for _, tenant := range []string{"b", ""} {
				if n, err := write(tenant, `DELETE FROM `+table); n != 0 || err != nil {
					t.Errorf("%s %s: tenant %q deletes %d rows of a, error %v", table, how, tenant, n, err)
				}
			}
			if _, err := write("a", `TRUNCATE `+table+` CASCADE`); code(err) != "42501" {
				t.Errorf("%s %s: tenant a empties it: %v", table, how, err)
			}
			if n := count(table); n != 1 {
				t.Errorf("%s %s: %d rows, want that of a", table, how, n)
			}
		}
		for _, table := range slices.Backward(tables) {
			if n, err := write("a", `DELETE FROM `+table); err != nil || count(table) != 0 {
				t.Errorf("%s %s: tenant a deletes %d rows of its own, error %v", table, how, n, err)
			}
		}
	}
}

func TestSystemTablesAreNoTenants(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, owner := open(t, pg.Config{URL: url}), pgtest.Owner(t, url)
	shared := isolated(t, owner, "tenant")
	for _, table := range isolated(t, owner, "system") {
		if slices.Contains(shared, table) {
			continue
		}
		if _, err := db.Exec(patient(t), `SELECT FROM `+table); code(err) != "42501" {
			t.Errorf("a tenant reads %s: %v", table, err)
		}
		if _, err := db.System().Exec(patient(t), `SELECT FROM `+table); err != nil {
			t.Errorf("the system reads %s: %v", table, err)
		}
	}
}

// code returns the SQLSTATE of an error.
func code(err error) string {
	var reply *pgconn.PgError
	if errors.As(err, &reply) {
		return reply.Code
	}
	return ""
}

// TestEveryTableIsIsolated fails if a migration forgets plinth_isolate.
func TestEveryTableIsIsolated(t *testing.T) {
	t.Parallel()
	owner := pgtest.Owner(t, pgtest.New(t))
	bare := scalar[[]string](t, owner, `
		SELECT coalesce(array_agg(c.relname::text ORDER BY 1), '{}') FROM pg_class c
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname <> 'goose_db_version'
		AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
			SELECT FROM pg_policies p WHERE p.schemaname = 'public' AND p.tablename = c.relname AND p.roles = '{plinth_system}'))`)
	if len(bare) != 0 {
		t.Errorf("without row level security that is forced, or a policy: %q", bare)
	}
	// Everything that a tenant's role may do depends on the tenant, but for reading the version of the schema.
	open := scalar[[]string](t, owner, `
		SELECT coalesce(array_agg(DISTINCT c.relname::text), '{}') FROM pg_class c
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		AND has_table_privilege('plinth_app', c.oid,
			CASE c.relname WHEN 'goose_db_version' THEN '' ELSE 'SELECT, ' END || 'INSERT, UPDATE, DELETE, TRUNCATE')
		AND NOT EXISTS (SELECT FROM pg_policies p WHERE p.tablename = c.relname AND p.roles = '{plinth_app}')`)
	if len(open) != 0 {
		t.Errorf("open to every tenant: %q", open)
	}
	policies := scalar[[]string](t, owner, `
		SELECT array_agg(DISTINCT concat_ws(' ', policyname, permissive, roles, cmd, qual, with_check)) FROM pg_policies`)
	want := []string{
		`system PERMISSIVE {plinth_system} ALL true`,
		`tenant PERMISSIVE {plinth_app} ALL (tenant = ( SELECT current_setting('plinth.tenant'::text, true) AS current_setting))`,
	}
	if !slices.Equal(policies, want) {
		t.Errorf("policies:\n%s", strings.Join(policies, "\n"))
	}
	if n := scalar[int](t, owner, `SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef`); n != 0 {
		t.Errorf("%d functions run as their owner", n)
	}
}

func TestRolesHaveNoPowersOfTheirOwn(t *testing.T) {
	t.Parallel()
	owner := pgtest.Owner(t, pgtest.New(t))
	const ours = `rolname IN ('plinth_app', 'plinth_system')`
	for what, sql := range map[string]string{
		"there": `SELECT count(*) - 2 FROM pg_roles WHERE ` + ours,
		"without powers": `SELECT count(*) FROM pg_roles WHERE ` + ours + `
			AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication)`,
		"members of nothing": `SELECT count(*) FROM pg_auth_members JOIN pg_roles r ON r.oid = member WHERE ` + ours,
		"owners of nothing": `SELECT count(*) FROM pg_shdepend JOIN pg_roles r ON r.oid = refobjid
			WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o' AND ` + ours,
		"makers of nothing": `SELECT count(*) FROM pg_roles WHERE ` + ours + ` AND has_schema_privilege(oid, 'public', 'CREATE')`,
	} {
		if n := scalar[int](t, owner, sql); n != 0 {
			t.Errorf("the roles are not %s", what)
		}
	}
}

// TestTenantIsNoSQL uses names that no tenant can have.
func TestTenantIsNoSQL(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	for _, setting := range []string{"on", "off"} { // Whether a backslash is an ordinary character.
		db := open(t, pg.Config{URL: url + separator + "standard_conforming_strings=" + setting})
		for _, tenant := range []string{
			`'`, `''`, `\`, `\'`, `\\'`, `a'b"c$$`, `ü`, "two\nlines", `'; SET LOCAL ROLE plinth_system; --`,
			`\'; SET LOCAL ROLE plinth_system; --`, `'; RESET ROLE; SELECT '`, `' || 'x`, `$1`,
		} {
			for how, scope := range scopes(db) {
				var role, got string
				err := scope(as(t, tenant), func(q pg.Querier) error {
					return q.QueryRow(as(t, tenant), `SELECT current_user::text, current_setting('plinth.tenant')`).Scan(&role, &got)
				})
				if err != nil || role != "plinth_app" || got != tenant {
					t.Errorf("%q %s: acts as %s for %q, error %v", tenant, how, role, got, err)
				}
			}
		}
		if err := db.InTx(as(t, "a\x00'; SET LOCAL ROLE plinth_system; --"), func(*pg.Tx) error { return nil }); err == nil {
			t.Error("a name with U+0000 begins a transaction")
		}
	}
}

// TestConnectionsComeBackWithoutTenant checks the only connection of a pool after every kind of use.
func TestConnectionsComeBackWithoutTenant(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t), MaxConns: 1})
	wrong := errors.New("wrong")
	const one = `SELECT 1 FROM generate_series(1, 100)`
	for what, use := range map[string]func(db database, ctx context.Context) error{
		"Exec":       func(db database, ctx context.Context) error { _, err := db.Exec(ctx, one); return err },
		"a bad Exec": func(db database, ctx context.Context) error { _, _ = db.Exec(ctx, `SELECT 1/0`); return nil },
		"QueryRow":   func(db database, ctx context.Context) error { return db.QueryRow(ctx, one).Scan(new(int)) },
		"no row": func(db database, ctx context.Context) error {
			_ = db.QueryRow(ctx, one+` LIMIT 0`).Scan(new(int))
			return nil
		},
		"a bad value": func(db database, ctx context.Context) error { _ = db.QueryRow(ctx, one).Scan(new(bool)); return nil },
		"Query": func(db database, ctx context.Context) error {
			found, err := db.Query(ctx, one)
			if err == nil {
				_, err = pgx.CollectRows(found, pgx.RowTo[int])
			}
			return err
		},
		"Query closed early": func(db database, ctx context.Context) error {
			found, err := db.Query(ctx, one)
			if err != nil {
				return err
			}
			found.Next()
			found.Close()
			return found.Err()
		},
		"InTx": func(db database, ctx context.Context) error { return db.InTx(ctx, func(*pg.Tx) error { return nil }) },
		"a rollback": func(db database, ctx context.Context) error {
			_ = db.InTx(ctx, func(*pg.Tx) error { return wrong })
			return nil
		},
		"a savepoint": func(db database, ctx context.Context) error {
			return db.InTx(ctx, func(tx *pg.Tx) error { return tx.InTx(ctx, func(*pg.Tx) error { return nil }) })
		},
		"a panic": func(db database, ctx context.Context) error {
			defer func() { _ = recover() }()
			return db.InTx(ctx, func(*pg.Tx) error { panic("boom") })
		},
		"cancellation": func(db database, ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			_ = db.InTx(ctx, func(*pg.Tx) error { cancel(); return ctx.Err() })
			return nil
		},
	} {
		for how, db := range map[string]database{"a tenant's": db, "the system's": db.System()} {
			if err := use(db, patient(t)); err != nil {
				t.Errorf("%s %s: %v", how, what, err)
			}
			left := scalar[string](t, db.Pool(), `SELECT concat_ws(' ', nullif(current_user, session_user), current_setting('plinth.tenant', true))`)
			if left != "" {
				t.Errorf("after %s %s the connection is left with %q", how, what, left)
			}
		}
	}
}

// TestRoleThatIsMissing simulates a server that starts before the schema is migrated.
func TestRoleThatIsMissing(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.NewEmpty(t)})
	err := db.InTx(patient(t), func(tx *pg.Tx) error {
		_, err := tx.Exec(patient(t), `SET LOCAL ROLE plinth_none`)
		return err
	})
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
}

// TestPlans asks for the settings that statements are planned under, of tenants and of the system, in a transaction and alone.
func TestPlans(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t), MaxConns: 2})
	const ask = `SELECT current_setting('enable_seqscan') || ' ' || current_setting('jit')`
	for who, q := range map[string]interface {
		pg.Querier
		InTx(ctx context.Context, do func(*pg.Tx) error) error
	}{"a tenant": db, "the system": db.System()} {
		if got := scalar[string](t, q, ask); got != "off off" {
			t.Errorf("%s, alone: %s", who, got)
		}
		if err := q.InTx(patient(t), func(tx *pg.Tx) error {
			if got := scalar[string](t, tx, ask); got != "off off" {
				t.Errorf("%s, in a transaction: %s", who, got)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}
