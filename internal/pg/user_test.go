package pg_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/zap"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestUserWithoutPowers migrates and uses a database as a user who owns it, but is no superuser and may not create roles.
func TestUserWithoutPowers(t *testing.T) {
	t.Parallel()
	server := pgtest.Owner(t, pgtest.NewEmpty(t))
	user := "plinth_test_" + strings.ToLower(rand.Text()[:10])
	exec(t, server, `CREATE ROLE `+user+` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		if _, err := server.Exec(context.Background(), `DROP ROLE `+user); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(pgtest.NewEmpty(t))
	if err != nil {
		t.Fatal(err)
	}
	exec(t, server, `ALTER DATABASE `+strings.TrimPrefix(u.Path, "/")+` OWNER TO `+user)
	u.User = url.UserPassword(user, "secret")

	if err := pg.Migrate(patient(t), u.String(), zap.NewNop()); err == nil || !strings.Contains(err.Error(), "GRANT") {
		t.Errorf("migrated by a user that is no member of the roles: %v, want to be told what to do", err)
	}
	exec(t, server, `GRANT plinth_app, plinth_system TO `+user)
	if err := pg.Migrate(patient(t), u.String(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	db := open(t, pg.Config{URL: u.String()})
	wantCurrent(t, db, true)
	for _, tenant := range []string{"a", "b"} {
		if _, err := db.Exec(as(t, tenant), rows["queues"], tenant); err != nil {
			t.Fatal(err)
		}
	}
	const seen = `SELECT coalesce(string_agg(tenant, ' ' ORDER BY tenant), '') FROM queues`
	for tenant, want := range map[string]string{"a": "a", "b": "b", "c": "", "": ""} {
		var got string
		if err := db.QueryRow(as(t, tenant), seen).Scan(&got); err != nil || got != want {
			t.Errorf("%q sees %q, %v", tenant, got, err)
		}
	}
	if got := scalar[string](t, db.System(), seen); got != "a b" {
		t.Errorf("the system sees %q", got)
	}
}
