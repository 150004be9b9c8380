package tenant_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/tenant"
)

func TestTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	made, err := f.CreateTenant(ctx, tenant.Tenant{
		Name: "acme", DisplayName: "Acme Ltd.", Rate: auth.Rate{Count: 5, Per: time.Minute}, Quotas: map[string]int64{"queues": 7},
	})
	if err != nil || made.CreatedAt.IsZero() || made.Rate.String() != "5/m" || made.Quotas["queues"] != 7 || made.DisplayName != "Acme Ltd." {
		t.Errorf("made %+v, %v", made, err)
	}
	_, err = f.CreateTenant(ctx, tenant.Tenant{Name: "acme"})
	wantKind(t, err, errs.AlreadyExists)
	for _, bad := range []string{"", "Acme", "a.b", "1a", "-a", "a_b", strings.Repeat("a", 64), "a\n", "default'", "amq"} {
		_, err := f.CreateTenant(ctx, tenant.Tenant{Name: bad})
		wantKind(t, err, errs.InvalidArgument)
	}
	_, err = f.CreateTenant(ctx, tenant.Tenant{Name: "other", Quotas: map[string]int64{"nonsense": 1}})
	wantKind(t, err, errs.InvalidArgument)
	if !strings.Contains(err.Error(), "queues, messages_per_second") {
		t.Errorf("%v does not say which there are", err)
	}
	_, err = f.UpdateTenant(ctx, "acme", func(c *tenant.Tenant) { c.Quotas = map[string]int64{"nonsense": 1} })
	wantKind(t, err, errs.InvalidArgument)
	_, err = f.UpdateTenant(ctx, "nobody", func(*tenant.Tenant) {})
	wantKind(t, err, errs.NotFound)
	_, err = f.UpdateTenant(ctx, auth.DefaultTenant, func(c *tenant.Tenant) { c.Disabled = true })
	wantKind(t, err, errs.FailedPrecondition)
	if _, err := f.UpdateTenant(ctx, "acme", func(c *tenant.Tenant) { c.Disabled, c.Rate = true, auth.Rate{} }); err != nil {
		t.Fatal(err)
	}
	if err := f.queue(ctx, "acme", "q"); err != nil {
		t.Fatal(err)
	}
	got, err := f.GetTenant(ctx, "acme")
	if err != nil || !got.Disabled || got.Rate.IsLimit() || got.Quotas["queues"] != 7 || got.Usage["queues"] != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, counted := got.Usage["messages_per_second"]; counted {
		t.Error("a rate is counted as if it stood")
	}
	_, err = f.GetTenant(ctx, "nobody")
	wantKind(t, err, errs.NotFound)
}

func TestTenantsInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 5 {
		f.tenant(t, named("t", i))
	}
	var names []string
	for token := ""; ; {
		page, next, err := f.ListTenants(t.Context(), 2, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range page {
			names = append(names, one.Name)
		}
		if token = next; token == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "default t0 t1 t2 t3 t4" {
		t.Errorf("got %s", got)
	}
	for _, token := range []string{"?", "QUJD"} {
		_, _, err := f.ListTenants(t.Context(), 2, token)
		wantKind(t, err, errs.InvalidArgument)
	}
}

// A tenant can be deleted once it has nothing left that counts. Its rows in all tables are deleted with it.
func TestDeleteTenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.tenant(t, "acme")
	f.tenant(t, "other")
	secret, _ := f.key(t, "acme")
	for _, of := range []string{"acme", "other"} {
		if err := f.queue(ctx, of, "q"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.db.Exec(auth.AsService(ctx, of), `INSERT INTO message_handled (tenant, consumer, message_id)
			VALUES ($1, 'c', gen_random_uuid())`, of); err != nil {
			t.Fatal(err)
		}
	}
	err := f.DeleteTenant(ctx, "acme")
	wantKind(t, err, errs.FailedPrecondition)
	if !strings.Contains(err.Error(), "1 queues") {
		t.Errorf("%v does not say what is left", err)
	}
	if _, err := f.db.System().Exec(ctx, `DELETE FROM queues WHERE tenant = 'acme'`); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteTenant(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	f.gone(t, "acme")
	wantKind(t, f.DeleteTenant(ctx, "acme"), errs.NotFound)
	wantKind(t, f.DeleteTenant(ctx, auth.DefaultTenant), errs.FailedPrecondition)
	_, err = f.Authenticate(ctx, secret)
	wantKind(t, err, errs.Unauthenticated)
	for of, want := range map[string]int{"acme": 0, "other": 1} {
		var n int
		if err := f.db.System().QueryRow(ctx, `SELECT count(*) FROM message_handled WHERE tenant = $1`, of).Scan(&n); err != nil || n != want {
			t.Errorf("%s has %d rows left, %v", of, n, err)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.tenant(t, "acme")
	expires := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	secret, k, err := f.CreateApiKey(ctx, tenant.Key{
		Tenant: "acme", DisplayName: "ci", Scopes: []string{"queues.read", "messages.*"}, Rate: auth.Rate{Count: 9, Per: time.Hour}, ExpiresAt: expires,
	})
	if err != nil || !strings.HasPrefix(secret, k.Prefix) || len(k.Prefix) >= len(secret)/2 || k.Tenant != "acme" || !k.ExpiresAt.Equal(expires) ||
		!k.RevokedAt.IsZero() || !k.LastUsedAt.IsZero() {
		t.Errorf("made %+v, %v", k, err)
	}
	p, err := f.Authenticate(ctx, secret)
	if err != nil || p.ID != "key:"+k.ID || p.Tenant.Name != "acme" || p.Rate.String() != "9/h" || !p.Allows("messages.publish") || p.Allows("queues.write") {
		t.Errorf("the principal is %+v, %v", p, err)
	}
	var kept string
	if err := f.db.System().QueryRow(ctx, `SELECT string_agg(k::text, '') FROM api_keys k`).Scan(&kept); err != nil || strings.Contains(kept, secret[8:]) {
		t.Errorf("the key itself is kept: %s, %v", kept, err)
	}
	for name, bad := range map[string]tenant.Key{
		"no scope": {Tenant: "acme"}, "unknown scope": {Tenant: "acme", Scopes: []string{"queues.nonsense"}},
		"unknown domain": {Tenant: "acme", Scopes: []string{"nonsense.*"}}, "admin of a tenant": {Tenant: "acme", Scopes: []string{"admin"}},
		"past": {Tenant: "acme", Scopes: []string{"*"}, ExpiresAt: time.Now().Add(-time.Second)},
		"far":  {Tenant: "acme", Scopes: []string{"*"}, ExpiresAt: time.Now().AddDate(11, 0, 0)},
	} {
		_, _, err := f.CreateApiKey(ctx, bad)
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, _, err = f.CreateApiKey(ctx, tenant.Key{Tenant: "nobody", Scopes: []string{"*"}})
	wantKind(t, err, errs.NotFound)
	secret, _, err = f.CreateApiKey(ctx, tenant.Key{Scopes: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := f.Authenticate(ctx, secret); err != nil || !p.IsAdmin() || p.Tenant.Name != auth.DefaultTenant {
		t.Errorf("the administrator is %+v, %v", p, err)
	}
	_, err = f.GetApiKey(ctx, "nonsense")
	wantKind(t, err, errs.NotFound)
	_, err = f.RevokeApiKey(ctx, "01a207b7-cfee-74eb-a938-89f827930982")
	wantKind(t, err, errs.NotFound)
}

func TestKeysInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.tenant(t, "acme")
	want := map[string]bool{}
	for range 5 {
		_, k := f.key(t, "acme")
		want[k.ID] = true
	}
	f.key(t, auth.DefaultTenant)
	seen, first := "~", ""
	for token := ""; ; {
		page, next, err := f.ListApiKeys(t.Context(), "acme", 2, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page {
			if !want[k.ID] || k.ID >= seen {
				t.Errorf("%s comes after %s", k.ID, seen)
			}
			delete(want, k.ID)
			seen = k.ID
		}
		if first == "" {
			first = next
		}
		if token = next; token == "" {
			break
		}
	}
	if len(want) != 0 {
		t.Errorf("%v are missing", want)
	}
	_, _, err := f.ListApiKeys(t.Context(), auth.DefaultTenant, 2, first)
	wantKind(t, err, errs.InvalidArgument)
	if all, _, err := f.ListApiKeys(t.Context(), "", 0, ""); err != nil || len(all) != 6 {
		t.Errorf("all are %d, %v", len(all), err)
	}
}

// The last use of a key is written a little later, and when the process ends.
func TestLastUsed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.run(t)
	secret, k := f.key(t, auth.DefaultTenant)
	if _, err := f.Authenticate(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	stop()
	k, err := f.GetApiKey(t.Context(), k.ID)
	if err != nil || time.Since(k.LastUsedAt) > time.Minute {
		t.Errorf("it was used last at %v, %v", k.LastUsedAt, err)
	}
}

func TestActive(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.run(t)
	f.tenant(t, "acme")
	active, changed, err := f.Active(t.Context())
	if err != nil || len(active) != 2 || active[0].Name != "acme" {
		t.Fatalf("active are %v, %v", active, err)
	}
	if _, err := another(t, f.url).UpdateTenant(t.Context(), "acme", func(c *tenant.Tenant) { c.Disabled = true }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(time.Second):
		t.Fatal("nobody is told within a second")
	}
	if active, _, err = f.Active(context.Background()); err != nil || len(active) != 1 {
		t.Errorf("active are %v, %v", active, err)
	}
}
