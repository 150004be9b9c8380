package tenant

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

// tenantColumns are the columns that scanTenant reads.
const tenantColumns = `t.name, t.display_name, t.disabled, t.rate_limit, t.quotas, t.created_at, t.deleted_at`

// tenantFields returns the targets to scan tenantColumns into; the rate is to be parsed with auth.ParseRate.
func tenantFields(t *Tenant, rate *string) []any {
	return []any{&t.Name, &t.DisplayName, &t.Disabled, rate, &t.Quotas, &t.CreatedAt, (*zeronull.Timestamptz)(&t.DeletedAt)}
}

func scanTenant(row pgx.Row) (t Tenant, err error) {
	var rate string
	if err := row.Scan(tenantFields(&t, &rate)...); err != nil {
		return Tenant{}, err
	}
	t.Rate, err = auth.ParseRate(rate)
	return t, err
}

func insertTenant(ctx context.Context, db *pg.Tx, t Tenant) (created bool, err error) {
	tag, err := db.Exec(ctx, `INSERT INTO tenants (name, display_name, rate_limit, quotas) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		t.Name, t.DisplayName, t.Rate.String(), quotasOf(t))
	return tag.RowsAffected() == 1, err
}

// quotasOf returns the quotas of a tenant, never nil, which would be NULL.
func quotasOf(t Tenant) map[string]int64 {
	if t.Quotas == nil {
		return map[string]int64{}
	}
	return t.Quotas
}

func selectTenant(ctx context.Context, db pg.Querier, name string) (Tenant, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+tenantColumns+` FROM tenants t WHERE name = $1`, name), scanTenant, errNoTenant(name))
}

// lockTenant returns a tenant and prevents others from changing it, and from creating keys for it, until the transaction
// ends.
func lockTenant(ctx context.Context, db *pg.Tx, name string) (Tenant, error) {
	return pg.One(db.QueryRow(ctx, `SELECT `+tenantColumns+` FROM tenants t WHERE name = $1 FOR UPDATE`, name), scanTenant, errNoTenant(name))
}

// keepTenant prevents a tenant from being deleted until the transaction ends.
func keepTenant(ctx context.Context, db *pg.Tx, name string) error {
	t, err := pg.One(db.QueryRow(ctx, `SELECT `+tenantColumns+` FROM tenants t WHERE name = $1 FOR KEY SHARE`, name), scanTenant, errNoTenant(name))
	if err == nil && t.isDeleted() {
		return errDeleted(name)
	}
	return err
}

// selectTenants returns up to limit tenants after a name, in the order of their names; a limit of 0 means all.
func selectTenants(ctx context.Context, db *pg.System, after string, limit int) ([]Tenant, error) {
	rows, err := db.Query(ctx, `SELECT `+tenantColumns+` FROM tenants t WHERE name > $1 ORDER BY name LIMIT nullif($2::int, 0)`, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Tenant, error) { return scanTenant(row) })
}

// selectNamed returns the tenants that have one of the names, by name.
func selectNamed(ctx context.Context, db *pg.System, names []string) (map[string]*Tenant, error) {
	rows, err := db.Query(ctx, `SELECT `+tenantColumns+` FROM tenants t WHERE name = ANY ($1)`, names)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	named := make(map[string]*Tenant, len(names))
	for rows.Next() {
		t, err := scanTenant(rows)
		if err != nil {
			return nil, err
		}
		named[t.Name] = &t
	}
	return named, rows.Err()
}

func updateTenant(ctx context.Context, db *pg.Tx, t Tenant) error {
	_, err := db.Exec(ctx, `UPDATE tenants SET display_name = $2, disabled = $3, rate_limit = $4, quotas = $5 WHERE name = $1`,
		t.Name, t.DisplayName, t.Disabled, t.Rate.String(), quotasOf(t))
	return err
}

// markDeleted marks a tenant as being deleted, by this process for the duration of the lease.
func markDeleted(ctx context.Context, db *pg.Tx, name string, lease time.Duration) error {
	_, err := db.Exec(ctx, `UPDATE tenants SET deleted_at = now(), delete_due_at = clock_timestamp() + $2::interval WHERE name = $1`, name, lease)
	return err
}

// keepDeletion reports whether a tenant is being deleted, and keeps it so until the transaction ends.
func keepDeletion(ctx context.Context, db *pg.Tx, name string) (deleting bool, err error) {
	tag, err := db.Exec(ctx, `SELECT FROM tenants WHERE name = $1 AND deleted_at IS NOT NULL FOR KEY SHARE`, name)
	return tag.RowsAffected() > 0, err
}

// claimDeletion takes over a deletion that is due, for the duration of the lease.
func claimDeletion(ctx context.Context, db *pg.System, lease time.Duration) (name string, claimed bool, err error) {
	err = db.QueryRow(ctx, `
		UPDATE tenants SET delete_due_at = clock_timestamp() + $1::interval
		WHERE name = (SELECT name FROM tenants WHERE delete_due_at <= now() ORDER BY delete_due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING name`, lease).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	return name, err == nil, err
}

func postponeDeletion(ctx context.Context, db *pg.System, name string, delay time.Duration) error {
	_, err := db.Exec(ctx, `UPDATE tenants SET delete_due_at = clock_timestamp() + $2::interval WHERE name = $1 AND deleted_at IS NOT NULL`,
		name, delay)
	return err
}

// deletionsLate is for how long the earliest deletion has been due. The result is negative if it is not due yet or there is none.
const deletionsLate = `SELECT coalesce(now() - min(delete_due_at), '-1 hour') FROM tenants WHERE delete_due_at IS NOT NULL`

func selectDeletionsLate(ctx context.Context, db *pg.System) (late time.Duration, err error) {
	err = db.QueryRow(ctx, deletionsLate).Scan(&late)
	return late, err
}

// deleteTenant removes the row of a tenant whose deletion is finished, unless another process has done so.
func deleteTenant(ctx context.Context, db *pg.Tx, name string) error {
	_, err := db.Exec(ctx, `DELETE FROM tenants WHERE name = $1 AND deleted_at IS NOT NULL`, name)
	return err
}

// selectTables returns the tables whose rows have a tenant, quoted, including those of domains that do not exist yet. A
// table that refers to another comes before it. The tables of usage come last, the deltas first, because deleting from
// them waits for the process that adds them up.
func selectTables(ctx context.Context, db pg.Querier) ([]string, error) {
	rows, err := db.Query(ctx, `
		WITH RECURSIVE owned AS (
			SELECT c.oid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = current_schema()::regnamespace
				AND a.attname = 'tenant' AND NOT a.attisdropped AND c.relname <> ALL ('{tenant_usage_deltas,tenant_usage}')
		), referring AS (
			SELECT oid, 0 AS depth FROM owned
			UNION
			SELECT c.conrelid, r.depth + 1 FROM referring r JOIN pg_constraint c ON c.confrelid = r.oid
			WHERE c.contype = 'f' AND c.conrelid <> c.confrelid AND r.depth < 50
		)
		SELECT oid::regclass::text FROM referring JOIN owned USING (oid) GROUP BY oid ORDER BY max(depth) DESC, 1`)
	if err != nil {
		return nil, err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return append(tables, "tenant_usage_deltas", "tenant_usage"), err
}

// rowsOf is a query for up to $2 rows of tenant $1 in a table, which it locks as lock says. Messages of the broker have no index by tenant, which publishing would
// pay for: they are found by their queues.
func rowsOf(table, lock string) string {
	if table == "broker_messages" {
		return `SELECT m.ctid FROM broker_queues q CROSS JOIN LATERAL (
			SELECT ctid FROM broker_messages WHERE queue_id = q.id ORDER BY queue_id, seq LIMIT $2 ` + lock + `) AS m WHERE q.tenant = $1 LIMIT $2`
	}
	return `SELECT ctid FROM ` + table + ` WHERE tenant = $1 LIMIT $2 ` + lock
}

// deleteRows deletes up to limit rows of a tenant from a table, or from each of its partitions if it has any. more
// reports whether there may be more.
func deleteRows(ctx context.Context, db *pg.Tx, name, table string, limit int) (more bool, err error) {
	tag, err := db.Exec(ctx, `DELETE FROM `+table+` WHERE tenant = $1 AND ctid = ANY (ARRAY(`+rowsOf(table, "FOR UPDATE")+`))`, name, limit)
	return tag.RowsAffected() >= int64(limit), err
}

// deleteAll deletes all rows of a tenant, of which there should be none.
func deleteAll(ctx context.Context, db *pg.Tx, name string) error {
	tables, err := selectTables(ctx, db)
	if err != nil {
		return err
	}
	for _, table := range tables {
		for more := true; more; {
			if more, err = deleteRows(ctx, db, name, table, deleteBatch); err != nil {
				return err
			}
		}
	}
	return nil
}

// countRows counts the rows of a tenant, up to limit in each table.
func countRows(ctx context.Context, db *pg.System, name string, limit int) (n int64, err error) {
	tables, err := selectTables(ctx, db)
	if err != nil {
		return 0, err
	}
	for _, table := range tables {
		var of int64
		err := db.QueryRow(ctx, `SELECT count(*) FROM (`+rowsOf(table, "")+`) AS found`, name, limit).Scan(&of)
		if err != nil {
			return 0, err
		}
		n += of
	}
	return n, nil
}

// countChange makes every process drop its snapshot. Transactions that change something wait for each other here, so a
// process that has seen a number has seen all changes before it. There are few of them, so they may notify within the
// transaction, where the notification is sent if and only if the change is committed.
func countChange(ctx context.Context, db *pg.Tx) error {
	_, err := db.Exec(ctx, `WITH counted AS (
			UPDATE tenant_changes SET n = n + 1 RETURNING n
		), marked AS (
			UPDATE tenants SET change = (SELECT n FROM counted) WHERE change IS NULL
		)
		SELECT pg_notify($1, $2) FROM counted`, channel, changed)
	return err
}

// selectChanged returns the tenants that have changed since the number of changes was since, all if one was removed or since is negative,
// and the number by now.
func selectChanged(ctx context.Context, db *pg.System, since int64) (tenants []Tenant, all bool, n int64, err error) {
	if err = db.QueryRow(ctx, `SELECT n, removal > $1 OR $1 < 0 FROM tenant_changes`, since).Scan(&n, &all); err != nil {
		return nil, false, 0, err
	}
	if all {
		tenants, err = selectTenants(ctx, db, "", 0)
		return tenants, all, n, err
	}
	rows, err := db.Query(ctx, `SELECT `+tenantColumns+` FROM tenants t WHERE change > $1 OR change IS NULL`, since)
	if err != nil {
		return nil, false, 0, err
	}
	tenants, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Tenant, error) { return scanTenant(row) })
	return tenants, all, n, err
}

func selectChanges(ctx context.Context, db *pg.System) (n int64, err error) {
	err = db.QueryRow(ctx, `SELECT n FROM tenant_changes`).Scan(&n)
	return n, err
}

// updateQuotas replaces a tenant's own quotas.
func updateQuotas(ctx context.Context, db *pg.Tx, t Tenant) error {
	resources, quotas := []string{}, []int64{}
	for resource, quota := range t.Quotas {
		resources, quotas = append(resources, resource), append(quotas, quota)
	}
	_, err := db.Exec(ctx, `
		WITH ended AS (
			UPDATE tenant_usage SET quota = NULL WHERE tenant = $1 AND quota IS NOT NULL AND resource <> ALL ($2)
		)
		INSERT INTO tenant_usage AS u (tenant, resource, quota)
		SELECT $1, resource, quota FROM unnest($2::text[], $3::bigint[]) AS q (resource, quota) ORDER BY resource
		ON CONFLICT (tenant, resource) DO UPDATE SET quota = excluded.quota`, t.Name, resources, quotas)
	return err
}

// selectUsage returns how much of a resource a tenant has, and its own quota of it, nil if it has none.
func selectUsage(ctx context.Context, db pg.Querier, tenant, resource string) (n int64, own *int64, err error) {
	err = db.QueryRow(ctx, `
		SELECT coalesce((SELECT n FROM tenant_usage WHERE tenant = $1 AND resource = $2), 0)
				+ coalesce((SELECT sum(n) FROM tenant_usage_deltas WHERE tenant = $1 AND resource = $2), 0)::bigint,
			(SELECT quota FROM tenant_usage WHERE tenant = $1 AND resource = $2)`, tenant, resource).Scan(&n, &own)
	return n, own, err
}

// selectUsages returns the usage of each tenant, in the order of the resources.
func selectUsages(ctx context.Context, db pg.Querier, tenants, resources []string) (map[string][]usage, error) {
	rows, err := db.Query(ctx, `
		SELECT t.tenant, u.quota, coalesce(u.n, 0) + coalesce((SELECT sum(n) FROM tenant_usage_deltas d
				WHERE d.tenant = t.tenant AND d.resource = r.resource), 0)::bigint
		FROM unnest($1::text[]) AS t (tenant) CROSS JOIN unnest($2::text[]) WITH ORDINALITY AS r (resource, place)
		LEFT JOIN tenant_usage u ON u.tenant = t.tenant AND u.resource = r.resource ORDER BY r.place`, tenants, resources)
	if err != nil {
		return nil, err
	}
	usages := make(map[string][]usage, len(tenants))
	var tenant string
	var u usage
	_, err = pgx.ForEachRow(rows, []any{&tenant, &u.own, &u.n}, func() error {
		usages[tenant] = append(usages[tenant], u)
		return nil
	})
	return usages, err
}

// foldUsage adds up to limit deltas to the usage, and returns how many deltas there were.
func foldUsage(ctx context.Context, db *pg.System, limit int) (folded int, err error) {
	err = db.QueryRow(ctx, `
		WITH folded AS (
			DELETE FROM tenant_usage_deltas WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM tenant_usage_deltas LIMIT $1 FOR UPDATE SKIP LOCKED))
			RETURNING tenant, resource, n
		), added AS (
			INSERT INTO tenant_usage AS u (tenant, resource, n)
			SELECT tenant, resource, sum(n) FROM folded GROUP BY tenant, resource ORDER BY tenant, resource
			ON CONFLICT (tenant, resource) DO UPDATE SET n = u.n + excluded.n
		)
		SELECT count(*) FROM folded`, limit).Scan(&folded)
	return folded, err
}

// lockQuota makes the transactions of a tenant that count the same resource wait for each other.
func lockQuota(ctx context.Context, db *pg.Tx, tenant, quota string) error {
	_, err := db.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('quota ' || $1 || ' ' || $2, 0))`, tenant, quota)
	return err
}
