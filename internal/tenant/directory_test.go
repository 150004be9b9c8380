package tenant_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
	"plinth/internal/tenant"
)

// A change by one process takes effect in another within a second.
func TestChangesAreInEffectWithinASecond(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := another(t, f.url)
	other.run(t)
	ctx := t.Context()
	f.tenant(t, "acme")
	kept, _ := f.key(t, "acme")
	revoked, k := f.key(t, "acme")
	for range 2 { // From the database, then from memory.
		if _, err := other.Authenticate(ctx, revoked); err != nil {
			t.Fatal(err)
		}
	}
	soon := func(what string, holds func() bool) {
		t.Helper()
		if took := eventually(t, what, holds); took > time.Second {
			t.Errorf("%s after %v", what, took)
		}
	}
	if _, err := f.RevokeApiKey(ctx, k.ID); err != nil {
		t.Fatal(err)
	}
	soon("revoked", func() bool { _, err := other.Authenticate(ctx, revoked); return errs.Is(err, errs.Unauthenticated) })
	if _, err := f.UpdateTenant(ctx, "acme", func(c *tenant.Tenant) {
		c.Rate, c.Quotas = auth.Rate{Count: 3, Per: time.Second}, map[string]int64{"queues": 1}
	}); err != nil {
		t.Fatal(err)
	}
	soon("limited", func() bool {
		p, err := other.Authenticate(ctx, kept)
		return err == nil && p.Tenant.Rate.Count == 3 && p.Tenant.Quotas["queues"] == 1
	})
	if _, err := f.UpdateTenant(ctx, "acme", func(c *tenant.Tenant) { c.Disabled = true }); err != nil {
		t.Fatal(err)
	}
	soon("disabled", func() bool { _, err := other.Authenticate(ctx, kept); return errs.Is(err, errs.PermissionDenied) })
	_, err := other.Authenticate(ctx, revoked)
	wantKind(t, err, errs.Unauthenticated)
	// The process that made the change sees it at once.
	if _, err := f.UpdateTenant(ctx, "acme", func(c *tenant.Tenant) { c.Disabled = false }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Authenticate(ctx, kept); err != nil {
		t.Error(err)
	}
}

// Without Run, calls ask for changes themselves.
func TestCallsAskForChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := another(t, f.url)
	secret, k := f.key(t, auth.DefaultTenant)
	if _, err := other.Authenticate(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if _, err := f.RevokeApiKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if took := eventually(t, "revoked", func() bool { _, err := other.Authenticate(t.Context(), secret); return err != nil }); took > time.Second {
		t.Errorf("revoked after %v", took)
	}
}

// Lookups that run while keys are revoked do not leave a revoked key in the cache.
func TestLookupsAmongRevocations(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := another(t, f.url)
	other.run(t)
	ctx := t.Context()
	for range 8 {
		secret, k := f.key(t, auth.DefaultTenant)
		var asking sync.WaitGroup
		over := make(chan struct{})
		for range 4 {
			asking.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
						_, _ = other.Authenticate(ctx, secret)
					}
				}
			})
		}
		if _, err := f.RevokeApiKey(ctx, k.ID); err != nil {
			t.Fatal(err)
		}
		if took := eventually(t, "revoked", func() bool { _, err := other.Authenticate(ctx, secret); return err != nil }); took > time.Second {
			t.Errorf("revoked after %v", took)
		}
		close(over)
		asking.Wait()
		if _, err := other.Authenticate(ctx, secret); !errs.Is(err, errs.Unauthenticated) {
			t.Fatalf("a revoked key came back: %v", err)
		}
	}
}

// While PostgreSQL is away, nobody is admitted by data that is more than a second old. When it is back, calls work again.
func TestAwayIsNoExcuse(t *testing.T) {
	t.Parallel()
	direct := pgtest.New(t)
	proxied, away := proxy(t, direct)
	f, behind := another(t, direct), another(t, proxied)
	behind.run(t)
	secret, k := f.key(t, auth.DefaultTenant)
	authenticate := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := behind.Authenticate(ctx, secret)
		return err
	}
	if err := authenticate(); err != nil {
		t.Fatal(err)
	}
	away(true)
	cut := time.Now()
	if _, err := f.RevokeApiKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refused", func() bool {
		began, err := time.Now(), authenticate()
		if err == nil && began.Sub(cut) > time.Second {
			t.Fatalf("let in %v after the last word of PostgreSQL", began.Sub(cut))
		}
		return errs.Is(err, errs.Unavailable)
	})
	for range 20 { // It stays that way.
		wantKind(t, authenticate(), errs.Unavailable)
	}
	away(false)
	eventually(t, "the revocation is seen", func() bool {
		err := authenticate()
		if err == nil {
			t.Fatal("the revoked key is let in")
		}
		return errs.Is(err, errs.Unauthenticated)
	})
}

// proxy returns a URL that leads to a database through a proxy, and a function that makes it away, without connections.
func proxy(t *testing.T, database string) (proxied string, away func(bool)) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var gone bool
	var open []net.Conn
	target := u.Host
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			out, err := net.Dial("tcp", target)
			switch {
			case err != nil:
				_ = in.Close()
			case gone:
				_, _ = in.Close(), out.Close()
			default:
				open = append(open, in, out)
				go func() { _, _ = io.Copy(out, in) }()
				go func() { _, _ = io.Copy(in, out) }()
			}
			mu.Unlock()
		}
	}()
	away = func(is bool) {
		mu.Lock()
		defer mu.Unlock()
		gone = is
		for _, conn := range open {
			_ = conn.Close()
		}
		open = nil
	}
	t.Cleanup(func() { _ = listener.Close(); away(true) })
	u.Host = listener.Addr().String()
	return u.String(), away
}

// Unknown keys are refused, however many are tried, and a key that is created afterwards works at once.
func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.key(t, auth.DefaultTenant)
	for range 500 {
		_, err := f.Authenticate(t.Context(), auth.NewKey())
		wantKind(t, err, errs.Unauthenticated)
	}
	for _, garbage := range []string{"", "plinth_", "x", strings.Repeat("a", 1<<16), auth.NewKey() + "x"} {
		_, err := f.Authenticate(t.Context(), garbage)
		wantKind(t, err, errs.Unauthenticated)
	}
	secret, _ := f.key(t, auth.DefaultTenant)
	for _, process := range []fixture{f, another(t, f.url)} {
		if _, err := process.Authenticate(t.Context(), secret); err != nil {
			t.Error(err)
		}
	}
}

func TestAdministratorOfTheConfiguration(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret := auth.NewKey()
	s := tenant.New(tenant.Config{DB: f.db, Notifier: f.notifier, Directory: f.db.System(), Scopes: scopes, Admin: auth.HashKey(secret), Log: zap.NewNop()})
	p, err := s.Authenticate(t.Context(), secret)
	if err != nil || p.ID != "admin" || !p.IsAdmin() || p.Tenant.Name != auth.DefaultTenant {
		t.Errorf("got %+v, %v", p, err)
	}
	_, err = s.Authenticate(t.Context(), auth.NewKey())
	wantKind(t, err, errs.Unauthenticated)
	none := tenant.New(tenant.Config{DB: f.db, Notifier: f.notifier, Directory: f.db.System(), Scopes: scopes, Log: zap.NewNop()})
	_, err = none.Authenticate(t.Context(), secret)
	wantKind(t, err, errs.Unauthenticated)
}

func TestActFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	if _, err := f.CreateTenant(ctx, tenant.Tenant{Name: "acme", Quotas: map[string]int64{"queues": 9}}); err != nil {
		t.Fatal(err)
	}
	someone, admin := &auth.Principal{ID: "jwt:x", Scopes: []string{"*"}}, &auth.Principal{ID: "admin", Scopes: []string{auth.Admin}}
	p, err := f.ActFor(ctx, someone, "acme")
	if err != nil || p.ID != "jwt:x" || p.Tenant.Name != "acme" || p.Tenant.Quotas["queues"] != 9 || someone.Tenant.Name != "" {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, nobody := range []string{"nobody", "", "Acme", "a'b", strings.Repeat("a", 1000)} {
		_, err := f.ActFor(ctx, someone, nobody)
		wantKind(t, err, errs.PermissionDenied)
	}
	if _, err := f.UpdateTenant(ctx, "acme", func(c *tenant.Tenant) { c.Disabled = true }); err != nil {
		t.Fatal(err)
	}
	_, err = f.ActFor(ctx, someone, "acme")
	wantKind(t, err, errs.PermissionDenied)
	if _, err := f.ActFor(ctx, admin, "acme"); err != nil {
		t.Errorf("an administrator cannot act for a disabled tenant: %v", err)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	f := newFixture(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = f.Run(ctx) }()
	secret, _ := f.key(b, auth.DefaultTenant)
	for b.Loop() {
		if _, err := f.Authenticate(ctx, secret); err != nil {
			b.Fatal(err)
		}
	}
}
