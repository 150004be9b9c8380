package pg_test

import (
	"fmt"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestBackup dumps a database as README.md says, with a login that owns nothing and is no superuser, and restores it as an owner
// who is none either: all rows of all tenants are there, and tenants are still held apart.
func TestBackup(t *testing.T) {
	t.Parallel()
	dump, restore := pgtest.Program(t, "pg_dump"), pgtest.Program(t, "pg_restore")
	server := pgtest.Owner(t, pgtest.NewEmpty(t))
	var program, is int
	if output, err := osexec.Command(dump, "--version").Output(); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscanf(string(output), "pg_dump (PostgreSQL) %d", &program); err != nil {
		t.Fatal(err)
	}
	if is = scalar[int](t, server, `SELECT current_setting('server_version_num')::int / 10000`); program < is {
		t.Skipf("pg_dump %d does not dump a server %d", program, is)
	}
	owner, backup := newUser(t, server), newUser(t, server)
	exec(t, server, `GRANT plinth_app, plinth_system TO `+owner)
	exec(t, server, `GRANT plinth_system TO `+backup)
	from, to := ownedBy(t, server, owner), ownedBy(t, server, owner)
	if err := pg.Migrate(patient(t), from, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	db := open(t, pg.Config{URL: from})
	for _, tenant := range []string{"a", "b"} {
		exec(t, db.System(), `INSERT INTO tenants (name) VALUES ($1)`, tenant)
		if _, err := db.Exec(as(t, tenant), rows["queues"], tenant); err != nil {
			t.Fatal(err)
		}
	}

	file := filepath.Join(t.TempDir(), "plinth.dump")
	if output, err := osexec.Command(dump, "-Fc", "-f", file, from).CombinedOutput(); err == nil {
		t.Error("the owner's dump shows rows that row level security hides from it")
	} else if !strings.Contains(string(output), "row-level security") {
		t.Errorf("the owner's dump: %s", output)
	}
	for _, step := range []*osexec.Cmd{
		osexec.Command(dump, "--enable-row-security", "-Fc", "-f", file, login(t, from, backup)),
		osexec.Command(restore, "--no-owner", "--exit-on-error", "-d", to, file),
	} {
		if output, err := step.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", step.Args[:3], output)
		}
	}
	restored := open(t, pg.Config{URL: to})
	wantCurrent(t, restored, true)
	const all = `SELECT string_agg(tenant || '.' || name, ' ' ORDER BY tenant) FROM queues`
	if got, want := scalar[string](t, restored.System(), all), scalar[string](t, db.System(), all); got != want {
		t.Errorf("restored are the queues %q, want %q", got, want)
	}
	const seen = `SELECT coalesce(string_agg(tenant, ' ' ORDER BY tenant), '') FROM queues`
	for tenant, want := range map[string]string{"a": "a", "b": "b", "": ""} {
		var got string
		if err := restored.QueryRow(as(t, tenant), seen).Scan(&got); err != nil || got != want {
			t.Errorf("after the restore %q sees %q, %v", tenant, got, err)
		}
	}
	if _, err := restored.Exec(as(t, "a"), rows["queues"], "other"); err == nil {
		t.Error("after the restore a tenant makes rows of another")
	}
}
