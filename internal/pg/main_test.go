package pg_test

import (
	"context"
	"os"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const patience = 20 * time.Second

func open(t *testing.T, config pg.Config) *pg.DB {
	t.Helper()
	db, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// patient returns a context of the default tenant.
func patient(t *testing.T) context.Context { return as(t, auth.DefaultTenant) }

// as returns a context of the tenant.
func as(t *testing.T, tenant string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return auth.AsService(ctx, tenant)
}

func exec(t *testing.T, db pg.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(patient(t), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func scalar[T any](t *testing.T, db pg.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRow(patient(t), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
