package pgtest_test

import (
	"context"
	"os"
	"testing"

	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// TestReuse has one test after the other change what a test may change, and looks at what the next one gets.
func TestReuse(t *testing.T) {
	ctx := context.Background()
	seen := map[string]bool{}
	for _, change := range []string{
		`INSERT INTO tenants (name) VALUES ('left')`,
		`DELETE FROM tenants`,
		`CREATE TABLE left_over (id int)`,
		`CREATE OR REPLACE FUNCTION left_over() RETURNS int LANGUAGE sql AS 'SELECT 1'`,
		`SELECT 1`,
	} {
		t.Run("", func(t *testing.T) {
			url := pgtest.New(t)
			if seen[url] {
				t.Errorf("%s is the name of an earlier test's database", url)
			}
			seen[url] = true
			owner := pgtest.Owner(t, url)
			var tenants, others int
			if err := owner.QueryRow(ctx, `SELECT count(*), (SELECT count(*) FROM pg_class WHERE relname = 'left_over') +
				(SELECT count(*) FROM pg_proc WHERE proname = 'left_over') FROM tenants`).Scan(&tenants, &others); err != nil {
				t.Fatal(err)
			}
			if tenants != 1 || others != 0 {
				t.Errorf("%d tenants and %d others, want the default tenant alone", tenants, others)
			}
			if _, err := owner.Exec(ctx, change); err != nil {
				t.Fatal(err)
			}
		})
	}
}
