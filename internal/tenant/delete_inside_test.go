package tenant

import (
	"strings"
	"testing"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestDeletionDoesNotReadOthersMessages looks for the messages of a tenant among very many of another.
func TestDeletionDoesNotReadOthersMessages(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	exec := func(sql string) {
		t.Helper()
		if _, err := p.owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO broker_queues (name) VALUES ('default.q'), ('acme.q')`)
	exec(`INSERT INTO broker_messages (queue_id, tenant, id, attributes, body) SELECT q.id, q.tenant, gen_random_uuid(), '{}', ''
		FROM broker_queues q, generate_series(1, CASE q.tenant WHEN 'acme' THEN 30 ELSE 50000 END)`)
	exec(`ANALYZE broker_messages, broker_queues`)
	var plan strings.Builder
	rows, err := p.owner.Query(t.Context(), "EXPLAIN "+rowsOf("broker_messages", "FOR UPDATE"), "acme", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if rows.Close(); strings.Contains(plan.String(), "Seq Scan on broker_messages") {
		t.Errorf("it reads all messages:\n%s", plan.String())
	}
	for range 2 { // Of all tables, until nothing is left.
		if err := p.system.InTx(t.Context(), func(tx *pg.Tx) error { return deleteAll(t.Context(), tx, "acme") }); err != nil {
			t.Fatal(err)
		}
	}
	var acme, others int
	if err := p.owner.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE tenant = 'acme'), count(*) FILTER (WHERE tenant <> 'acme') FROM broker_messages`).
		Scan(&acme, &others); err != nil || acme != 0 || others != 50_000 {
		t.Errorf("%d are left, %d of others, %v", acme, others, err)
	}
}
