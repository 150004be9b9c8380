package tenant

import (
	"testing"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestChangedTenants reads what has changed: nothing for a key, one tenant for a tenant, all when one was removed.
func TestChangedTenants(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	since := int64(-1)
	changed := func(what string, all bool, names ...string) {
		t.Helper()
		tenants, isAll, n, err := selectChanged(t.Context(), p.system, since)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range tenants {
			got = append(got, c.Name)
		}
		if isAll != all || len(got) != len(names) || len(got) > 0 && got[0] != names[0] {
			t.Errorf("%s: all %v: %v", what, isAll, got)
		}
		since = n
	}
	changed("at first", true, "default")
	for _, name := range []string{"a", "b"} {
		if _, err := p.CreateTenant(t.Context(), Tenant{Name: name}); err != nil {
			t.Fatal(err)
		}
		changed("made", false, name)
	}
	if err := p.change(t.Context(), func(*pg.Tx) error { return nil }); err != nil { // As that of a key.
		t.Fatal(err)
	}
	changed("a key", false)
	if _, err := p.UpdateTenant(t.Context(), "a", func(c *Tenant) { c.Disabled = true }); err != nil {
		t.Fatal(err)
	}
	changed("disabled", false, "a")
	// A process of the release before does not say which change it was.
	if _, err := p.owner.Exec(t.Context(), `WITH c AS (UPDATE tenant_changes SET n = n + 1) UPDATE tenants SET disabled = false WHERE name = 'a'`); err != nil {
		t.Fatal(err)
	}
	changed("by an earlier release", false, "a")
	if err := p.DeleteTenant(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.deleteSome(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	changed("removed", true, "b", "default")
	changed("nothing", false)
}
