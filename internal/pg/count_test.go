package pg_test

import (
	"testing"

	"plinth/internal/pg/pgtest"
)

// Rows that exist when plinth_count is called are counted too.
func TestCountOfWhatIsThere(t *testing.T) {
	t.Parallel()
	owner := pgtest.Owner(t, pgtest.New(t))
	exec(t, owner, `CREATE TABLE notes (tenant text, body text); SELECT plinth_isolate('notes')`)
	exec(t, owner, `INSERT INTO notes VALUES ('a', 'one'), ('a', 'three'), ('b', 'two')`)
	exec(t, owner, `SELECT plinth_count('notes', 'note_letters', 'length(body)')`)
	exec(t, owner, `INSERT INTO notes VALUES ('a', 'five')`)
	exec(t, owner, `DELETE FROM notes WHERE body = 'two'`)
	for tenant, want := range map[string]int{"a": 12, "b": 0} {
		if n := scalar[int](t, owner, `SELECT sum(n) FROM (SELECT tenant, resource, n FROM tenant_usage UNION ALL SELECT * FROM tenant_usage_deltas) AS u
			WHERE tenant = $1 AND resource = 'note_letters'`, tenant); n != want {
			t.Errorf("%s has %d letters, want %d", tenant, n, want)
		}
	}
	if role := scalar[string](t, owner, `SELECT current_setting('role')`); role != "none" {
		t.Errorf("the role is %s afterwards", role)
	}
}
