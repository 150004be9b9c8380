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

// newUser creates a login that is no superuser, and drops it when the test ends: after the databases that it owns, which must
// be created later.
func newUser(t *testing.T, server pg.Querier) string {
	t.Helper()
	user := "plinth_test_" + strings.ToLower(rand.Text()[:10])
	exec(t, server, `CREATE ROLE `+user+` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		if _, err := server.Exec(context.Background(), `DROP ROLE `+user); err != nil {
			t.Error(err)
		}
	})
	return user
}

// ownedBy returns the URL of a new, empty database of a user.
func ownedBy(t *testing.T, server pg.Querier, user string) string {
	t.Helper()
	empty := pgtest.NewEmpty(t)
	u, err := url.Parse(empty)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, server, `ALTER DATABASE `+strings.TrimPrefix(u.Path, "/")+` OWNER TO `+user)
	if _, err := pgtest.Owner(t, empty).Exec(t.Context(), `GRANT ALL ON SCHEMA public TO `+user); err != nil {
		t.Fatal(err)
	}
	return login(t, empty, user)
}

// login returns the URL of a database for a user of newUser.
func login(t *testing.T, database, user string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "secret")
	return u.String()
}

// TestUserWithoutPowers migrates and uses a database as a user who owns it, but is no superuser and may not create roles.
// Another user, who owns nothing, uses it as well.
func TestUserWithoutPowers(t *testing.T) {
	t.Parallel()
	server := pgtest.Owner(t, pgtest.NewEmpty(t))
	user, runtime := newUser(t, server), newUser(t, server)
	database := ownedBy(t, server, user)
	if err := pg.Migrate(patient(t), database, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "GRANT") {
		t.Errorf("migrated by a user that is no member of the roles: %v, want to be told what to do", err)
	}
	exec(t, server, `GRANT plinth_app, plinth_system TO `+user+`, `+runtime)
	waiting := open(t, pg.Config{URL: login(t, database, runtime)})
	wantCurrent(t, waiting, false)
	if err := pg.Migrate(patient(t), database, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{database, login(t, database, runtime)} {
		db := open(t, pg.Config{URL: url})
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
		exec(t, db.System(), `DELETE FROM queues`)
	}
}
