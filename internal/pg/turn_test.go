package pg_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// A tenant that holds connections as long as it can, and waits for more, leaves others theirs, however it asks.
func TestSharedConnections(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	const slow = `SELECT 1 FROM pg_sleep(60)`
	for name, ask := range map[string]func(ctx context.Context, db *pg.DB) error{
		"InTx": func(ctx context.Context, db *pg.DB) error {
			return db.InTx(ctx, func(tx *pg.Tx) error { _, err := tx.Exec(ctx, slow); return err })
		},
		"Exec":     func(ctx context.Context, db *pg.DB) error { _, err := db.Exec(ctx, slow); return err },
		"Query":    func(ctx context.Context, db *pg.DB) error { return query(ctx, db, slow) },
		"QueryRow": func(ctx context.Context, db *pg.DB) error { var n int; return db.QueryRow(ctx, slow).Scan(&n) },
	} {
		t.Run(name, func(t *testing.T) {
			db, err := pg.Open(t.Context(), pg.Config{URL: url, MaxConns: 4, Shared: true})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			hog, stop := context.WithCancel(auth.AsService(t.Context(), "a"))
			ended := make(chan error)
			for range 10 {
				go func() { ended <- ask(hog, db) }()
			}
			other, cancel := context.WithTimeout(auth.AsService(t.Context(), "b"), 20*time.Second)
			defer cancel()
			for busy := 0; busy != 3; <-time.After(time.Millisecond) {
				if err := query(other, db, `SELECT 1`); err != nil {
					t.Fatalf("another tenant, while one has %d of 4 connections: %v", busy, err)
				}
				if err := admin.QueryRow(other, `SELECT count(*) FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event = 'PgSleep'`).Scan(&busy); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				if err := query(other, db, `SELECT 1`); err != nil {
					t.Fatalf("another tenant: %v", err)
				}
			}
			stop()
			for range 10 {
				if err := <-ended; err == nil {
					t.Error("what was cut off has no error")
				}
			}
			// All places are free again.
			for range 20 {
				if err := query(auth.AsService(t.Context(), "a"), db, `SELECT 1`); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func query(ctx context.Context, db *pg.DB, sql string) error {
	rows, err := db.Query(ctx, sql)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}
