package tenant_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
	"plinth/internal/tenant"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

var scopes = []string{"admin", "messages.publish", "queues.read", "queues.write"}

// fixture is the service on a database of the test's own; another returns one more process on it.
type fixture struct {
	*tenant.Service
	notifier *pg.Notifier
	db       *pg.DB
	url      string
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	return another(t, pgtest.New(t))
}

func another(t testing.TB, url string) fixture {
	t.Helper()
	db, err := pg.Open(context.Background(), pg.Config{URL: url, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s := tenant.New(tenant.Config{DB: db, Notifier: notifier, Directory: db.System(), Scopes: scopes, Log: zap.NewNop()})
	s.Register(queues(0), tenant.NewQuota(tenant.QuotaConfig{Name: "messages_per_second", What: "messages a second", Uncounted: true}))
	return fixture{s, notifier, db, url}
}

// queues returns a quota of three queues.
func queues(fresh time.Duration) *tenant.Quota {
	return tenant.NewQuota(tenant.QuotaConfig{Name: "queues", What: "queues", Most: 3, Fresh: fresh})
}

// run runs the service until the test ends.
func (f fixture) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		var notifying sync.WaitGroup
		notifying.Go(func() { f.notifier.Run(ctx) })
		notifying.Go(func() { _ = f.Work(ctx) })
		err := f.Run(ctx)
		notifying.Wait()
		ended <- err
	}()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return stop
}

func (f fixture) tenant(t testing.TB, name string) {
	t.Helper()
	if _, err := f.CreateTenant(t.Context(), tenant.Tenant{Name: name}); err != nil {
		t.Fatal(err)
	}
}

func (f fixture) key(t testing.TB, of string) (secret string, k tenant.Key) {
	t.Helper()
	secret, k, err := f.CreateApiKey(t.Context(), tenant.Key{Tenant: of, Scopes: []string{"queues.*"}})
	if err != nil {
		t.Fatal(err)
	}
	return secret, k
}

func wantKind(t testing.TB, err error, kind errs.Kind) {
	t.Helper()
	if !errs.Is(err, kind) {
		t.Errorf("got %v, want the kind %d", err, kind)
	}
}

// eventually polls until the condition holds, and returns how long that took.
func eventually(t testing.TB, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > 30*time.Second {
			t.Fatal("not within 30 s: " + what)
		}
		<-time.After(5 * time.Millisecond)
	}
	return time.Since(began)
}

// gone waits until a tenant is deleted. On a busy machine, DeleteTenant leaves a part of it to the processes that run.
func (f fixture) gone(t *testing.T, name string) {
	t.Helper()
	another(t, f.url).run(t)
	eventually(t, name+" is gone", func() bool {
		_, err := f.GetTenant(t.Context(), name)
		return errs.Is(err, errs.NotFound)
	})
}

func (f fixture) queue(ctx context.Context, tenant, name string) error {
	_, err := f.db.Exec(auth.AsService(ctx, tenant), `INSERT INTO queues (tenant, name) VALUES ($1, $2)`, tenant, name)
	return err
}

func named(prefix string, n int) string { return fmt.Sprintf("%s%d", prefix, n) }
