package tenant

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

// table is what tenants have of two resources, and how it was read.
type table struct {
	mu    sync.Mutex
	has   map[string][]usage
	reads [][]string // the tenants of each
	err   error
}

func (t *table) read(_ context.Context, tenants, _ []string) (map[string][]usage, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reads = append(t.reads, tenants)
	found := map[string][]usage{}
	for _, name := range tenants {
		found[name] = append([]usage{}, append(t.has[name], usage{}, usage{})[:2]...)
	}
	return found, t.err
}

func (t *table) set(tenant string, usages ...usage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.has[tenant] = usages
}

func (t *table) times() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.reads)
}

// newLevels returns levels of 10 messages and 100 bytes.
func newLevels() (*Levels, *table, *clock) {
	l := NewLevels(nil, NewQuota(QuotaConfig{Name: "messages", What: "messages", Most: 10}), NewQuota(QuotaConfig{Name: "bytes", What: "bytes", Most: 100}))
	there, c := &table{has: map[string][]usage{}}, &clock{start: time.Now()}
	l.read, l.now = there.read, c.read
	return l, there, c
}

func wantTaken(t *testing.T, l *Levels, tenant string, amounts ...int64) {
	t.Helper()
	ctx := auth.AsService(t.Context(), tenant)
	if err := l.Take(ctx, amounts...); err != nil {
		t.Error(err)
		return
	}
	l.Done(ctx, amounts...)
}

func wantRefused(t *testing.T, l *Levels, tenant string, amounts ...int64) {
	t.Helper()
	if err := l.Take(auth.AsService(t.Context(), tenant), amounts...); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("%v of %s: %v", amounts, tenant, err)
	}
}

// TestLevels takes up to two quotas. What was taken may be gone again, so nothing is refused for that alone.
func TestLevels(t *testing.T) {
	t.Parallel()
	l, there, c := newLevels()
	for range 10 {
		wantTaken(t, l, "acme", 1, 1)
	}
	if n := there.times(); n != 1 {
		t.Errorf("read %d times", n)
	}
	wantTaken(t, l, "acme", 1, 1)
	if n := there.times(); n != 2 {
		t.Errorf("read %d times when what was taken is gone", n)
	}
	there.set("acme", usage{n: 10})
	c.pass(levelSure + 1)
	wantRefused(t, l, "acme", 10, 1)
	wantRefused(t, l, "acme", 0, 0)
	before := there.times()
	for range 100 {
		wantRefused(t, l, "acme", 1, 1)
	}
	if n := there.times(); n != before {
		t.Errorf("read %d times for 100 that are refused", n-before)
	}
	there.set("acme", usage{n: 1}, usage{n: 99})
	c.pass(levelSure + 1)
	wantRefused(t, l, "acme", 1, 2)
	wantTaken(t, l, "acme", 1, 1)
	wantTaken(t, l, "other", 10, 100)
}

// TestLevelsInHand takes what is not done yet, and counts it although it cannot be read.
func TestLevelsInHand(t *testing.T) {
	t.Parallel()
	l, there, c := newLevels()
	ctx := auth.AsService(t.Context(), "acme")
	if err := l.Take(ctx, 10, 10); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Minute)
	wantTaken(t, l, "other", 1, 1)
	wantRefused(t, l, "acme", 1, 1)
	there.set("acme", usage{n: 9})
	l.Done(ctx, 10, 10)
	wantTaken(t, l, "acme", 1, 1)
}

// TestLevelsOfOwnQuotas has tenants with quotas of their own, and a database that is away.
func TestLevelsOfOwnQuotas(t *testing.T) {
	t.Parallel()
	l, there, c := newLevels()
	none, two := int64(0), int64(2)
	there.set("free", usage{1000, &none}, usage{1000, &none})
	there.set("small", usage{1, &two}, usage{})
	wantTaken(t, l, "free", 1000, 1000)
	wantTaken(t, l, "small", 1, 1)
	wantRefused(t, l, "small", 2, 1)
	there.err = errors.New("away")
	c.pass(levelKnown + 1)
	wantRefused(t, l, "small", 2, 1)
	wantTaken(t, l, "unknown", 1, 1)
}

// TestLevelsOfMany reads many tenants at a time, and remembers those that ask.
func TestLevelsOfMany(t *testing.T) {
	t.Parallel()
	l, there, c := newLevels()
	var tenants []string
	for n := range 1000 {
		tenants = append(tenants, strconv.Itoa(n))
	}
	l.Know(t.Context(), tenants...)
	for _, tenant := range tenants {
		wantTaken(t, l, tenant, 1, 1)
	}
	if n := there.times(); n > 2 {
		t.Errorf("read %d times", n)
	}
	c.pass(levelKnown + 1)
	wantTaken(t, l, "acme", 1, 1)
	if len(l.levels) != 1 {
		t.Errorf("%d tenants are remembered", len(l.levels))
	}
}

// TestLevelsAreRead reads them as they are in the database.
func TestLevelsAreRead(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	if _, err := p.owner.Exec(t.Context(), `INSERT INTO tenant_usage (tenant, resource, n, quota) VALUES ('a', 'x', 5, 7), ('a', 'y', 1, NULL), ('b', 'y', 2, 0)`); err != nil {
		t.Fatal(err)
	}
	if _, err := p.owner.Exec(t.Context(), `INSERT INTO tenant_usage_deltas (tenant, resource, n) VALUES ('a', 'x', 2), ('a', 'x', -1), ('c', 'x', 3)`); err != nil {
		t.Fatal(err)
	}
	all, err := selectUsages(t.Context(), p.system, []string{"a", "b", "c"}, []string{"x", "y"})
	if err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string][]int64{"a": {6, 1}, "b": {0, 2}, "c": {3, 0}} {
		for i, u := range all[tenant] {
			if u.n != want[i] {
				t.Errorf("%s has %d, want %d", tenant, u.n, want[i])
			}
		}
	}
	if a, b := all["a"][0].own, all["b"][1].own; a == nil || *a != 7 || b == nil || *b != 0 || all["a"][1].own != nil {
		t.Errorf("own quotas: %+v", all)
	}
}
