package lock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/lock"
	"plinth/internal/pg/pgtest"
)

func TestOneHasIt(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	one := n.acquire(t, ctx, request(t, "one"))
	if one.Token == 0 || time.Until(one.End) > 10*time.Second || time.Until(one.End) < 5*time.Second {
		t.Errorf("%+v", one)
	}
	_, err := n.Acquire(ctx, request(t, "two"))
	var held *errs.Error
	if !errors.As(err, &held) || held.Kind != errs.Aborted || held.Reason != "LOCK_HELD" || held.RetryAfter <= 0 || held.RetryAfter > 10*time.Second {
		t.Fatalf("%v", err)
	}
	if released, err := n.Release(ctx, one.Name, uuid.New(), false); released || err != nil {
		t.Errorf("another lease: released %t, error %v", released, err)
	}
	other := n.acquire(t, as(t, "other"), request(t, "the same name"))
	n.release(t, ctx, one)
	if released, err := n.Release(ctx, one.Name, one.ID, false); released || err != nil {
		t.Errorf("twice: released %t, error %v", released, err)
	}
	two := n.acquire(t, ctx, request(t, "two"))
	if two.Token <= one.Token {
		t.Errorf("token %d after %d", two.Token, one.Token)
	}
	if _, err := n.Renew(as(t, "other"), other.Name, other.ID, 0, false); err != nil {
		t.Errorf("the other tenant's: %v", err)
	}
}

// A client that did not hear the answer calls again, and has what it had.
func TestAcquireAgain(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	r := request(t, "one")
	first := n.acquire(t, ctx, r)
	again := n.acquire(t, ctx, r)
	if again.ID != first.ID || again.Token != first.Token || again.ExpiresAt.Before(first.ExpiresAt) {
		t.Errorf("%+v, at first %+v", again, first)
	}
	n.release(t, ctx, first)
	if later := n.acquire(t, ctx, r); later.Token <= first.Token {
		t.Errorf("another lease has the token %d, the one before %d", later.Token, first.Token)
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	l := n.acquire(t, ctx, request(t, "one"))
	longer, err := n.Renew(ctx, l.Name, l.ID, time.Hour, false)
	if err != nil || longer.Token != l.Token || time.Until(longer.End) < 59*time.Minute || longer.ExpiresAt.Sub(l.ExpiresAt) < 59*time.Minute {
		t.Errorf("%+v %v", longer, err)
	}
	if _, err := n.Renew(ctx, l.Name, uuid.New(), 0, false); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("another lease: %v", err)
	}
	exec(t, databaseURL, `UPDATE locks SET expires_at = now()`)
	if _, err := n.Renew(ctx, l.Name, l.ID, 0, false); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a lease that has ended, of a lock that nobody has: %v", err)
	}
	if released, err := n.Release(ctx, l.Name, l.ID, false); released || err != nil {
		t.Errorf("a lease that has ended: released %t, error %v", released, err)
	}
}

func TestRequestsThatAreNotValid(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	for field, change := range map[string]func(*lock.Request){
		"ttl":  func(r *lock.Request) { r.TTL = time.Hour + 1 },
		"ttl:": func(r *lock.Request) { r.TTL = time.Second - 1 },
		"wait": func(r *lock.Request) { r.Wait = -1 },
		"own":  func(r *lock.Request) { r.Owner = "" },
		"name": func(r *lock.Request) { r.Name = lock.Name{} },
	} {
		r := request(t, "one")
		change(&r)
		if _, err := n.Acquire(ctx, r); !errs.Is(err, errs.InvalidArgument) || err.Error()[:len(field)] != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, bad := range []string{"", string(make([]byte, 201)), "a\nb", "\xff"} {
		if _, err := lock.ParseName(bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestForceRelease(t *testing.T) {
	t.Parallel()
	n, ctx := newNode(t, pgtest.New(t)), as(t, "acme")
	if _, err := n.ForceRelease(ctx, name(t, "a"), "because"); !errs.Is(err, errs.NotFound) {
		t.Errorf("nobody has it: %v", err)
	}
	err := n.With(ctx, "a", func(within context.Context, token int64) error {
		for _, reason := range []string{" ", "a\x00", "\xff"} {
			if _, err := n.ForceRelease(ctx, name(t, "a"), reason); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("for the reason %q: %v", reason, err)
			}
		}
		admin := auth.With(ctx, &auth.Principal{ID: "key:7", Tenant: auth.Tenant{Name: "acme"}})
		f, err := n.ForceRelease(admin, name(t, "a"), "it hangs")
		if err != nil || f.Token != token || f.Principal != "key:7" || f.Holder != "service" || f.Owner == "" {
			t.Errorf("%+v %v", f, err)
		}
		kept, next, err := n.ListForcedReleases(ctx, 0, "")
		if err != nil || next != "" || !slices.Equal(kept, []lock.ForcedRelease{f}) {
			t.Errorf("%+v %q %v", kept, next, err)
		}
		n.release(t, ctx, n.acquire(t, ctx, request(t, "two")))
		<-within.Done() // At the next renewal.
		return within.Err()
	}, lock.TTL(time.Second))
	if !isLost(err) {
		t.Errorf("%v", err)
	}
	if kept, _, err := n.ListForcedReleases(as(t, "other"), 0, ""); err != nil || len(kept) != 0 {
		t.Errorf("another tenant sees %v, error %v", kept, err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	const locks = 2500
	exec(t, databaseURL, `INSERT INTO locks (tenant, name, token, lease_id, holder, owner, ttl, acquired_at, expires_at)
		SELECT tenant, 'l' || lpad(i::text, 5, '0'), i, CASE WHEN i % 5 > 0 THEN gen_random_uuid() END, 'key:1', 'one', '1 hour', now(), now() + '1 hour'
		FROM generate_series(1, $1) AS i, unnest('{acme,other}'::text[]) AS tenant`, locks)
	seen := map[string]bool{}
	for token, pages := "", 0; pages == 0 || token != ""; pages++ {
		page, next, err := n.List(ctx, 300, token)
		if err != nil || len(page) > 300 {
			t.Fatalf("%d %v", len(page), err)
		}
		for _, l := range page {
			if seen[l.Name.String()] || l.Holder != "key:1" || l.Owner != "one" {
				t.Fatalf("%+v", l)
			}
			seen[l.Name.String()] = true
		}
		token = next
		// Others come and go.
		n.release(t, ctx, n.acquire(t, ctx, lock.Request{Name: name(t, fmt.Sprintf("l%05d", pages*300)), Owner: "two"}))
	}
	if len(seen) != locks*4/5 {
		t.Errorf("%d locks, want %d", len(seen), locks*4/5)
	}
	if _, _, err := n.List(ctx, 0, "x"); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("%v", err)
	}
	l, err := n.Get(ctx, name(t, "l00001"))
	if err != nil || l.Token != 1 || time.Until(l.ExpiresAt) < 50*time.Minute {
		t.Errorf("%+v %v", l, err)
	}
	if _, err := n.Get(ctx, name(t, "l00005")); !errs.Is(err, errs.NotFound) {
		t.Errorf("nobody has it: %v", err)
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newLimited(t, databaseURL, lock.Limits{Locks: 2, Waiters: 1}), as(t, "acme")
	take := func(ctx context.Context, name_ string) (lock.Lease, error) {
		return n.Acquire(ctx, lock.Request{Name: name(t, name_), Owner: "one"})
	}
	for _, name := range []string{"a", "b"} {
		if _, err := take(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := take(ctx, "c"); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("a third: %v", err)
	}
	if _, err := take(ctx, "a"); !errs.Is(err, errs.Aborted) {
		t.Errorf("one that is there: %v", err)
	}
	if _, err := take(as(t, "other"), "c"); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
	waits := make(chan error)
	go func() {
		r := request(t, "two")
		r.Wait = patience
		_, err := n.Acquire(ctx, r)
		waits <- err
	}()
	n.waiting(t, ctx, 1)
	r := request(t, "three")
	r.Wait = time.Second
	if _, err := n.Acquire(ctx, r); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("a second waiter: %v", err)
	}
	if _, err := n.ForceRelease(ctx, name(t, "a"), "test"); err != nil {
		t.Fatal(err)
	}
	if err := <-waits; err != nil {
		t.Error(err)
	}
	// The tenant's own quota counts, once the one before is no longer known.
	exec(t, databaseURL, `INSERT INTO tenant_usage (tenant, resource, quota) VALUES ('acme', 'locks', 3)`)
	until(t, "a third lock", func() bool { _, err := take(ctx, "c"); return err == nil })
}

// Tokens grow though rows go and the clock is set back.
func TestTokensNeverGoBack(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	movable, set := clock(t, databaseURL)
	n, ctx := newNode(t, movable), as(t, "acme")
	var last int64
	next := func(what string) {
		t.Helper()
		l := n.acquire(t, ctx, request(t, "one"))
		if l.Token <= last {
			t.Errorf("%s: token %d after %d", what, l.Token, last)
		}
		last = l.Token
		n.release(t, ctx, l)
	}
	next("first")
	set(time.Hour)
	next("an hour ahead")
	set(-time.Hour)
	next("an hour back")
	set(2 * time.Hour) // The row is old enough to go.
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows := scalar[int](t, databaseURL, `SELECT count(*) FROM locks`); rows != 0 {
		t.Fatalf("%d rows are left", rows)
	}
	set(-time.Hour)
	next("an hour back, the row is gone")
	exec(t, databaseURL, `DELETE FROM locks`) // As a backup has it that is older than the lock.
	exec(t, databaseURL, `DELETE FROM lock_floors`)
	set(90 * time.Minute)
	next("a backup restored")
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows := scalar[int](t, databaseURL, `SELECT count(*) FROM locks`); rows != 1 {
		t.Errorf("the row of a lock that was just released is gone")
	}
}

// A lease does not outlast its TTL because the clock was set back.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	movable, set := clock(t, pgtest.New(t))
	n, ctx := newNode(t, movable), as(t, "acme")
	set(time.Hour)
	r := request(t, "one")
	r.TTL = 2 * time.Second
	one := n.acquire(t, ctx, r)
	set(0)
	_, err := n.Acquire(ctx, request(t, "two"))
	var held *errs.Error
	if !errors.As(err, &held) || held.RetryAfter > r.TTL {
		t.Fatalf("%v", err)
	}
	r = request(t, "two")
	r.Wait = patience
	two := n.acquire(t, ctx, r)
	if time.Now().Before(one.End) || two.Token <= one.Token {
		t.Errorf("%+v is given before the end of %+v", two, one)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	n, ctx := newNode(t, databaseURL), as(t, "acme")
	l := n.acquire(t, ctx, request(t, "one"))
	exec(t, databaseURL, `INSERT INTO lock_processes VALUES ('acme', gen_random_uuid(), now() - interval '2 minutes')`)
	exec(t, databaseURL, `INSERT INTO lock_waiters (tenant, name, lease_id, process, expires_at)
		SELECT tenant, 'b', gen_random_uuid(), process, now() + interval '1 minute' FROM lock_processes`)
	exec(t, databaseURL, `INSERT INTO lock_forced_releases VALUES
		('acme', gen_random_uuid(), 'b', 1, '', '', '', '', now() - interval '91 days'), ('acme', gen_random_uuid(), 'b', 1, '', '', '', '', now())`)
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string]int{"locks": 1, "lock_processes": 0, "lock_waiters": 0, "lock_forced_releases": 1} {
		if rows := scalar[int](t, databaseURL, `SELECT count(*) FROM `+table); rows != want {
			t.Errorf("%d rows in %s, want %d", rows, table, want)
		}
	}
	n.release(t, ctx, l)
}

// The locks that somebody has are counted, of all tenants, by who sweeps.
func TestHeldAreCounted(t *testing.T) {
	t.Parallel()
	n := newNode(t, pgtest.New(t))
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.Metrics()...)
	held := func() (values []float64) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "plinth_locks_held" {
				values = append(values, f.GetMetric()[0].GetGauge().GetValue())
			}
		}
		return values
	}
	take := func(tenant, lockName string) lock.Lease {
		return n.acquire(t, as(t, tenant), lock.Request{Name: name(t, lockName), TTL: time.Hour, LeaseID: uuid.New(), Owner: "one"})
	}
	n.release(t, as(t, "acme"), take("acme", "a"))
	take("acme", "b")
	take("other", "b")
	if values := held(); len(values) > 0 {
		t.Errorf("%v before a sweep", values)
	}
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if values := held(); !slices.Equal(values, []float64{2}) {
		t.Errorf("%v are held", values)
	}
}
