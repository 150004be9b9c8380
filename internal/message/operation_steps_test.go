package message_test

import (
	"strings"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/message"
)

// TestDryRunInSteps has a dry run of very many dead letters. No statement writes or removes very many rows, however many there are,
// and what another operation has is left out.
func TestDryRunInSteps(t *testing.T) {
	t.Parallel()
	letters := atFullLength(200_000, 25_000)
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	ctx := auth.With(t.Context(), auth.Anonymous())
	for made := 0; made < letters; made += 25_000 {
		_, err := f.system.Exec(ctx, `
			INSERT INTO dead_letters (tenant, id, queue, message_id, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body)
			SELECT 'default', gen_random_uuid(), 'orders', gen_random_uuid(), 'because of ' || i, 3, now(), now() - interval '1 ms' * (i / 3), '{}', '{}', ''
			FROM generate_series($1::int + 1, $1::int + 25000) i`, made)
		if err != nil {
			t.Fatal(err)
		}
	}
	f.schema(t, `CREATE FUNCTION bounded() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN IF (SELECT count(*) FROM changed) > 10000 THEN RAISE EXCEPTION ''too many rows in one statement''; END IF; RETURN NULL; END'`)
	for event, rows := range map[string]string{"INSERT": "NEW", "DELETE": "OLD"} {
		f.schema(t, `CREATE TRIGGER bounded_`+event+` AFTER `+event+` ON dead_letter_operation_items REFERENCING `+rows+` TABLE AS changed
			FOR EACH STATEMENT EXECUTE FUNCTION bounded()`)
	}
	some, _, err := f.PurgeDeadLetters(ctx, q, message.Choice{Filter: &message.Filter{Reason: "OF 1"}, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := f.count(t, `SELECT count(*) FROM dead_letters WHERE reason LIKE '%of 1%'`); some.Total != int64(want) {
		t.Errorf("%d of some, want %d", some.Total, want)
	}
	f.exec(t, `UPDATE dead_letter_operations SET state = 'running'`)
	begun := time.Now()
	plan, skipped, err := f.PurgeDeadLetters(ctx, q, message.Choice{Filter: &message.Filter{}, DryRun: true})
	t.Logf("a dry run of %d dead letters took %v", letters, time.Since(begun))
	if err != nil || plan.Total != int64(letters)-some.Total || skipped.InOperation != some.Total {
		t.Fatalf("%+v %+v %v", plan, skipped, err)
	}
	var in string
	err = f.system.QueryRow(ctx, `SELECT concat_ws(' ', count(*), count(DISTINCT dead_letter_id), min(n), max(n),
			bool_and(last_failed_at >= before)) FROM (
		SELECT n, dead_letter_id, last_failed_at, lag(last_failed_at, 1, last_failed_at) OVER (ORDER BY n) AS before
		FROM dead_letter_operation_items JOIN dead_letters ON id = dead_letter_id WHERE operation_id = $1::text::uuid) i`, plan.ID).Scan(&in)
	if total := plan.Total; err != nil || !strings.HasSuffix(in, " t") || f.count(t, `SELECT max(n) FROM dead_letter_operation_items
		WHERE operation_id = $1::text::uuid`, plan.ID) != int(total) {
		t.Errorf("pinned as %s, %v", in, err)
	}
	f.exec(t, `UPDATE dead_letter_operations SET created_at = now() - interval '2 hours', state = 'planned'`)
	if err := f.Sweep(ctx); err != nil {
		t.Error(err)
	}
	if n := f.count(t, `SELECT (SELECT count(*) FROM dead_letter_operations) + (SELECT count(*) FROM dead_letter_operation_items)`); n != 0 {
		t.Errorf("%d rows of dry runs are left", n)
	}
}
