package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// spare are databases that tests have used and that are as new.
type spare struct {
	mu    sync.Mutex
	names []string
	fresh contents // of a new database
}

// contents is what a new database has beside its empty tables.
type contents struct {
	schema string // changes with whatever changes the schema
	rows   map[string][]byte
	values map[string]string // of sequences
}

// largeTable is the size of a table, in bytes, from which on its database is not used again.
const largeTable = 1 << 20

// schemaOf is where each row of the catalogues stands, and which transaction put it there. Settings of the database are none.
const schemaOf = `
	SELECT string_agg(catalogue || ' ' || n || ' ' || places, ', ' ORDER BY catalogue) FROM (
		SELECT 'class' AS catalogue, count(*) AS n, sum(hashtext(xmin || ' ' || ctid)::bigint) AS places FROM pg_class
		UNION ALL SELECT 'attribute', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_attribute
		UNION ALL SELECT 'attrdef', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_attrdef
		UNION ALL SELECT 'constraint', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_constraint
		UNION ALL SELECT 'extension', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_extension
		UNION ALL SELECT 'index', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_index
		UNION ALL SELECT 'inherits', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_inherits
		UNION ALL SELECT 'namespace', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_namespace
		UNION ALL SELECT 'policy', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_policy
		UNION ALL SELECT 'proc', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_proc
		UNION ALL SELECT 'rewrite', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_rewrite
		UNION ALL SELECT 'setting', count(*), 0 FROM pg_db_role_setting
			WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
		UNION ALL SELECT 'trigger', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_trigger
		UNION ALL SELECT 'type', count(*), sum(hashtext(xmin || ' ' || ctid)::bigint) FROM pg_type
	) AS catalogues`

// take returns the name of a database that is as new, or "".
func (s *spare) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) == 0 {
		return ""
	}
	name := s.names[len(s.names)-1]
	s.names = s.names[:len(s.names)-1]
	return name
}

// keep empties a database and keeps it, under another name: what still asks for the old one finds none. It reports whether it did;
// if not, the database is to be dropped.
func (s *spare) keep(name string) (kept bool) {
	empty := false
	if err := onDatabase(name, func(ctx context.Context, conn *pgx.Conn) (err error) {
		empty, err = s.fresh.restore(ctx, conn)
		return err
	}); err != nil || !empty {
		return false
	}
	as := newName()
	if err := onServer(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "ALTER DATABASE "+name+" RENAME TO "+as)
		return err
	}); err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, as)
	return true
}

// drop drops all.
func (s *spare) drop() error {
	for name := s.take(); name != ""; name = s.take() {
		if err := drop(name); err != nil {
			return err
		}
	}
	return nil
}

// read reads what a new database has.
func read(ctx context.Context, conn *pgx.Conn) (c contents, err error) {
	c.rows, c.values = map[string][]byte{}, map[string]string{}
	if err := conn.QueryRow(ctx, schemaOf).Scan(&c.schema); err != nil {
		return c, err
	}
	used, _, err := usedTables(ctx, conn)
	if err != nil {
		return c, err
	}
	for _, table := range used {
		var rows bytes.Buffer
		if _, err := conn.PgConn().CopyTo(ctx, &rows, "COPY "+table+" TO STDOUT"); err != nil {
			return c, err
		}
		c.rows[table] = rows.Bytes()
	}
	rows, err := conn.Query(ctx, `SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value)::text || ', ' ||
		(last_value IS NOT NULL)::text FROM pg_sequences`)
	if err != nil {
		return c, err
	}
	var sequence, value string
	_, err = pgx.ForEachRow(rows, []any{&sequence, &value}, func() error { c.values[sequence] = value; return nil })
	return c, err
}

// restore brings a database to these contents. It reports false where it cannot: the schema is another, or a table is large. On
// PostgreSQL 13, which does not wait for a backend that it terminates, it fails always, and every test has a new database.
func (c contents) restore(ctx context.Context, conn *pgx.Conn) (restored bool, err error) {
	if _, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`); err != nil {
		return false, err
	}
	var schema string
	if err := conn.QueryRow(ctx, schemaOf).Scan(&schema); err != nil || schema != c.schema {
		return false, err
	}
	used, largest, err := usedTables(ctx, conn)
	if err != nil || largest >= largeTable {
		return false, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var statements bytes.Buffer
	statements.WriteString("SET LOCAL session_replication_role = replica;") // no triggers
	for _, table := range used {
		fmt.Fprintf(&statements, "DELETE FROM %s;", table)
	}
	for sequence, value := range c.values {
		fmt.Fprintf(&statements, "SELECT setval('%s', %s);", sequence, value)
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, statements.String()).ReadAll(); err != nil {
		return false, err
	}
	for table, rows := range c.rows {
		if _, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(rows), "COPY "+table+" FROM STDIN"); err != nil {
			return false, err
		}
	}
	return true, tx.Commit(ctx)
}

// usedTables returns the tables that have or had rows, and the size of the largest.
func usedTables(ctx context.Context, conn *pgx.Conn) (used []string, largest int64, err error) {
	rows, err := conn.Query(ctx, `SELECT oid::regclass::text, pg_table_size(oid), pg_relation_size(oid) > 0 FROM pg_class
		WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`)
	if err != nil {
		return nil, 0, err
	}
	var table string
	var size int64
	var had bool
	_, err = pgx.ForEachRow(rows, []any{&table, &size, &had}, func() error {
		largest = max(largest, size)
		if had {
			used = append(used, table)
		}
		return nil
	})
	return used, largest, err
}
