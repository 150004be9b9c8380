package tenant_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
	"plinth/internal/tenant"
)

// later are tables of a domain that does not exist yet. One refers to another whose name sorts first; one is partitioned.
const later = `
	CREATE TABLE "A table" (tenant text, id int PRIMARY KEY);
	CREATE TABLE b (tenant text, a int REFERENCES "A table");
	CREATE TABLE c (n int, tenant text) PARTITION BY HASH (tenant);
	CREATE TABLE c0 PARTITION OF c FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE c1 PARTITION OF c FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE none_of_tenants (x text);
	INSERT INTO none_of_tenants VALUES ('acme');
	SELECT plinth_isolate(name::regclass) FROM unnest(ARRAY ['"A table"', 'b', 'c']) AS t (name);`

var laterRows = []string{
	`INSERT INTO "A table" SELECT $1, ascii($1)`, `INSERT INTO b SELECT $1, ascii($1)`, `INSERT INTO c SELECT 1, $1`,
	`INSERT INTO message_handled (tenant, consumer, message_id) VALUES ($1, 'c', gen_random_uuid())`,
	`INSERT INTO message_keys (tenant, destination, key, id) VALUES ($1, 'q', 'k', gen_random_uuid())`,
	`INSERT INTO queues (tenant, name) VALUES ($1, 'q')`,
	`INSERT INTO queue_bindings (tenant, queue, topic, pattern) VALUES ($1, 'q', 't', '#')`,
}

// fill inserts rows of a tenant into many tables; rest counts the rows that are left, in all tables with a tenant.
func (f fixture) fill(t *testing.T, of string) {
	t.Helper()
	for _, sql := range laterRows {
		if _, err := f.db.System().Exec(t.Context(), sql, of); err != nil {
			t.Fatal(err)
		}
	}
}

func (f fixture) rest(t *testing.T, of string) (n int) {
	t.Helper()
	owner := pgtest.Owner(t, f.url)
	rows, err := owner.Query(t.Context(), `SELECT quote_ident(table_name) FROM information_schema.columns
		WHERE table_schema = current_schema() AND column_name = 'tenant'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 10 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		var here int
		if err := owner.QueryRow(t.Context(), `SELECT count(*) FROM `+table+` WHERE tenant = $1`, of).Scan(&here); err != nil {
			t.Fatal(err)
		}
		n += here
	}
	return n
}

// No row of a tenant outlives it, not even in tables that this package does not know.
func TestDeleteTenantOfAllTables(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := pgtest.Owner(t, f.url).Exec(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	none := another(t, f.url)
	f.tenant(t, "acme")
	f.tenant(t, "other")
	f.fill(t, "acme")
	f.fill(t, "other")
	f.key(t, "acme")
	before := f.rest(t, "other")
	err := f.DeleteTenant(t.Context(), "acme")
	wantKind(t, err, errs.FailedPrecondition)
	if !strings.Contains(err.Error(), "still has 1 queues;") {
		t.Errorf("%v does not say what is left", err)
	}
	if f.rest(t, "acme") == 0 {
		t.Error("it was refused, and rows are gone")
	}
	if _, err := f.db.Exec(auth.AsService(t.Context(), "acme"), `DELETE FROM queues`); err != nil {
		t.Fatal(err)
	}
	if err := none.DeleteTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	f.gone(t, "acme")
	if n := f.rest(t, "acme"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if n := f.rest(t, "other"); n != before {
		t.Errorf("of %d rows of another %d are left", before, n)
	}
	var n int
	if err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT count(*) FROM none_of_tenants`).Scan(&n); err != nil || n != 1 {
		t.Errorf("what is no tenant's: %d, %v", n, err)
	}
}

// The error names everything that is left, and ignores quotas that are not counted.
func TestDeleteTenantNamesAll(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := pgtest.Owner(t, f.url).Exec(t.Context(), `SELECT plinth_count('message_keys', 'keys')`); err != nil {
		t.Fatal(err)
	}
	f.Register(tenant.NewQuota(tenant.QuotaConfig{Name: "keys", What: "idempotency keys", Fresh: time.Hour}))
	for _, of := range []string{"acme", "other"} {
		f.tenant(t, of)
		for _, sql := range laterRows[4:6] {
			if _, err := f.db.System().Exec(t.Context(), sql, of); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := f.DeleteTenant(t.Context(), "acme")
	if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "1 queues and 1 idempotency keys") {
		t.Error(err)
	}
	got, err := f.GetTenant(t.Context(), "acme")
	if err != nil || len(got.Usage) != 2 || got.Usage["keys"] != 1 || got.Usage["queues"] != 1 {
		t.Errorf("uses %v, %v", got.Usage, err)
	}
}

// A deletion waits for transactions that create something meanwhile. One connection is enough.
func TestDeleteTenantWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.tenant(t, "acme")
	small, err := pg.Open(t.Context(), pg.Config{URL: f.url, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(small.Close)
	deleting := tenant.New(tenant.Config{DB: small, Notifier: f.notifier, Directory: small.System(), Scopes: scopes, Log: zap.NewNop()})
	q := queues(0)
	deleting.Register(q)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	as, deleted := auth.AsService(ctx, "acme"), make(chan error, 1)
	err = f.db.InTx(as, func(tx *pg.Tx) error {
		if err := q.Take(as, tx, 1); err != nil {
			return err
		}
		if _, err := tx.Exec(as, `INSERT INTO queues (tenant, name) VALUES ('acme', 'q')`); err != nil {
			return err
		}
		go func() { deleted <- deleting.DeleteTenant(ctx, "acme") }()
		owner := pgtest.Owner(t, f.url)
		eventually(t, "the deletion waits", func() bool {
			var waits bool
			err := owner.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waits)
			return err == nil && waits || len(deleted) > 0
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-deleted, errs.FailedPrecondition)
	if _, err := f.GetTenant(ctx, "acme"); err != nil {
		t.Errorf("and it is gone: %v", err)
	}
}

// A new tenant has no rows, even if late calls left some behind after a tenant of its name was deleted.
func TestCreateTenantAfterAnother(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := pgtest.Owner(t, f.url).Exec(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	f.tenant(t, "other")
	f.fill(t, "other")
	f.fill(t, "acme")
	before := f.rest(t, "other")
	f.tenant(t, "acme")
	if n, others := f.rest(t, "acme"), f.rest(t, "other"); n != 0 || others != before {
		t.Errorf("it begins with %d rows, and the other has %d of %d", n, others, before)
	}
	f.fill(t, "acme")
	_, err := f.CreateTenant(t.Context(), tenant.Tenant{Name: "acme"})
	wantKind(t, err, errs.AlreadyExists)
	if f.rest(t, "acme") == 0 {
		t.Error("making it once more took its rows")
	}
}

// Calls of a deleted tenant are refused at once. Many rows are removed in small steps, which another process continues if one
// dies. Until then its name is not free, and GetTenant reports the progress. What domains have elsewhere is removed first.
func TestDeleteLargeTenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	owner := pgtest.Owner(t, f.url)
	const rows = 20_000
	f.tenant(t, "acme")
	f.tenant(t, "other")
	secret, _ := f.key(t, "acme")
	if _, err := owner.Exec(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	f.fill(t, "other")
	if _, err := owner.Exec(t.Context(), `
		CREATE TABLE parents (tenant text, id int PRIMARY KEY);
		CREATE TABLE children (tenant text, parent int REFERENCES parents ON DELETE CASCADE);
		SELECT plinth_isolate('parents'), plinth_isolate('children');
		INSERT INTO parents VALUES ('acme', 1);
		INSERT INTO children SELECT 'acme', 1 FROM generate_series(1, 5000);
		INSERT INTO message_handled (tenant, consumer, message_id) SELECT 'acme', 'c', gen_random_uuid() FROM generate_series(1, 15000);
		CREATE FUNCTION bounded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF (SELECT count(*) > 1000 FROM gone) THEN RAISE 'too many rows'; END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER bounded AFTER DELETE ON children REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION bounded();
		CREATE TRIGGER bounded AFTER DELETE ON message_handled REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION bounded();`); err != nil {
		t.Fatal(err)
	}
	others := f.rest(t, "other")
	var objects, early atomic.Int64
	objects.Store(3)
	removing := func(ctx context.Context) (bool, error) {
		if auth.TenantOf(ctx) != "acme" {
			t.Errorf("a deletion acts for %q", auth.TenantOf(ctx))
		}
		if f.rest(t, "acme") < rows {
			early.Add(1)
		}
		if objects.Load() == 0 {
			return true, nil
		}
		objects.Add(-1)
		return false, nil
	}
	f.OnDelete(removing)
	if err := f.DeleteTenant(t.Context(), "acme"); err != nil { // This process does not run, as if it had died.
		t.Fatal(err)
	}
	got, err := f.GetTenant(t.Context(), "acme")
	if err != nil || got.DeletedAt.IsZero() || got.Remaining < rows || early.Load() > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := f.DeleteTenant(t.Context(), "acme"); err != nil {
		t.Errorf("once more: %v", err)
	}
	_, err = f.Authenticate(t.Context(), secret)
	wantKind(t, err, errs.Unauthenticated)
	_, err = f.ActFor(t.Context(), auth.Anonymous(), "acme")
	wantKind(t, err, errs.PermissionDenied)
	active, _, err := f.Active(t.Context())
	if err != nil || len(active) != 2 {
		t.Errorf("active are %v, %v", active, err)
	}
	_, err = f.CreateTenant(t.Context(), tenant.Tenant{Name: "acme"})
	wantKind(t, err, errs.AlreadyExists)
	_, err = f.UpdateTenant(t.Context(), "acme", func(c *tenant.Tenant) { c.Disabled = true })
	wantKind(t, err, errs.FailedPrecondition)
	_, _, err = f.CreateApiKey(t.Context(), tenant.Key{Tenant: "acme", Scopes: []string{"*"}})
	wantKind(t, err, errs.FailedPrecondition)

	if _, err := f.db.System().Exec(t.Context(), `UPDATE tenants SET delete_due_at = now() WHERE delete_due_at IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	next := another(t, f.url)
	next.OnDelete(removing)
	next.run(t)
	eventually(t, "the name is free", func() bool {
		_, err := f.CreateTenant(t.Context(), tenant.Tenant{Name: "acme"})
		return err == nil
	})
	if n := f.rest(t, "acme"); n != 0 || objects.Load() != 0 || f.rest(t, "other") != others {
		t.Errorf("%d rows and %d objects are left; the other has %d of %d", n, objects.Load(), f.rest(t, "other"), others)
	}
}
