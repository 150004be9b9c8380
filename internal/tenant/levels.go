package tenant

import (
	"context"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

const (
	levelFresh = time.Second            // a level that is older is read anew, while it is relied on
	levelKnown = 2 * time.Second        // one that is older is waited for
	levelSure  = 250 * time.Millisecond // nothing is refused by an older one
	levelPace  = 20 * time.Millisecond  // between two reads
	levelLimit = 500 * time.Millisecond // of a read
	// levelTries is how many reads a call waits for that would pass the quota only by what was taken since the last one: some of
	// that may be gone.
	levelTries = 3
)

// Levels are quotas for calls that cannot afford a statement each: they go by what was read a moment ago, in one statement for all
// tenants that ask. So the quotas may be exceeded by what others take meanwhile. While
// the database cannot be read, what was read last applies.
type Levels struct {
	quotas []*Quota
	read   func(ctx context.Context, tenants, resources []string) (map[string][]usage, error)
	now    func() time.Time

	mu      sync.Mutex
	levels  map[string]*level // by tenant; those that asked within levelKnown
	reading chan struct{}     // closed when the read ends that is about to begin or runs; nil if there is none
	began   time.Time         // the last read
}

// level is what a tenant has and may have of each of the quotas.
type level struct {
	asked, at    time.Time // when it was asked for and read last
	usages       []usage
	inHand       []int64 // was taken, and is not done
	taken, since []int64 // was done after it was read, and since the read that runs began
}

// usage is what a tenant has of a resource, and its own quota of it, nil if it has none.
type usage struct {
	n   int64
	own *int64
}

// NewLevels returns the levels of quotas. Their Fresh has no meaning here.
func NewLevels(db *pg.System, quotas ...*Quota) *Levels {
	return &Levels{
		quotas: quotas, now: time.Now, levels: map[string]*level{},
		read: func(ctx context.Context, tenants, resources []string) (map[string][]usage, error) {
			return selectUsages(ctx, db, tenants, resources)
		},
	}
}

// Know reads the levels of tenants that nothing is known of, in one statement and not one by one when they take. A read that fails is
// left to them.
func (l *Levels) Know(ctx context.Context, tenants ...string) {
	for range 2 { // A read that runs does not have those that come later.
		read := l.unknown(tenants)
		if read == nil {
			return
		}
		select {
		case <-read:
		case <-ctx.Done():
			return
		}
	}
}

func (l *Levels) unknown(tenants []string) (read <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tenant := range tenants {
		if l.of(tenant).at.Before(l.now().Add(-levelKnown)) {
			read = l.begin()
		}
	}
	return read
}

// of returns the level of a tenant that asks for it. The caller must hold l.mu.
func (l *Levels) of(tenant string) *level {
	v := l.levels[tenant]
	if v == nil {
		v = &level{usages: make([]usage, len(l.quotas))}
		v.inHand, v.taken, v.since = make([]int64, len(l.quotas)), make([]int64, len(l.quotas)), make([]int64, len(l.quotas))
		l.levels[tenant] = v
	}
	v.asked = l.now()
	return v
}

// Take takes an amount from each quota for the tenant of the context, or nothing. Of a quota with the amount 0 nothing is taken, but
// there must be room for one more. Once what was taken is there, or not, Done must be called with the same amounts. Errors:
// ResourceExhausted.
func (l *Levels) Take(ctx context.Context, amounts ...int64) error {
	tenant := auth.TenantOf(ctx)
	for try := 1; ; try++ {
		read, err := l.try(tenant, amounts, try > levelTries)
		if read == nil {
			return err
		}
		select {
		case <-read:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try takes, refuses, or returns a read to wait for. The last try refuses instead of waiting.
func (l *Levels) try(tenant string, amounts []int64, last bool) (read <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.of(tenant)
	age := v.asked.Sub(v.at)
	if age > levelKnown && !last {
		return l.begin(), nil
	}
	if age > levelFresh {
		l.begin()
	}
	certain, err := l.check(v, amounts)
	switch {
	case err == nil:
		for i, n := range amounts {
			v.inHand[i] += n
		}
		return nil, nil
	case last || certain && age <= levelSure:
		return nil, err
	default:
		return l.begin(), nil
	}
}

// Done ends what Take began: what was taken is there now, and the next read counts it, or it is not.
func (l *Levels) Done(ctx context.Context, amounts ...int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.of(auth.TenantOf(ctx))
	for i, n := range amounts {
		v.inHand[i], v.taken[i], v.since[i] = v.inHand[i]-n, v.taken[i]+n, v.since[i]+n
	}
}

// check returns the error for amounts that a level has no room for. certain reports whether that does not depend on what was taken since
// it was read.
func (l *Levels) check(v *level, amounts []int64) (certain bool, err error) {
	for i, q := range l.quotas {
		most := q.Most
		if own := v.usages[i].own; own != nil {
			most = *own
		}
		n := max(1, amounts[i])
		if _, err = q.check(v.usages[i].n+v.taken[i]+v.inHand[i], n, most); err != nil {
			_, sure := q.check(v.usages[i].n, n, most)
			return sure != nil, err
		}
	}
	return false, nil
}

// begin returns the read that is about to begin, or the one that runs. The caller must hold l.mu.
func (l *Levels) begin() <-chan struct{} {
	if l.reading == nil {
		l.reading = make(chan struct{})
		time.AfterFunc(max(0, levelPace-l.now().Sub(l.began)), l.readAll)
	}
	return l.reading
}

// readAll reads the levels of all tenants that asked lately, and forgets the others.
func (l *Levels) readAll() {
	ctx, cancel := context.WithTimeout(context.Background(), levelLimit)
	defer cancel()
	tenants, began := l.asked()
	resources := make([]string, len(l.quotas))
	for i, q := range l.quotas {
		resources[i] = q.Name
	}
	usages, err := l.read(ctx, tenants, resources)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tenant := range tenants {
		v := l.levels[tenant]
		v.at = began
		if err == nil {
			v.usages = usages[tenant]
			copy(v.taken, v.since)
		}
	}
	close(l.reading)
	l.reading = nil
}

// asked returns the tenants to read, and when.
func (l *Levels) asked() (tenants []string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began = l.now()
	for tenant, v := range l.levels {
		if l.began.Sub(v.asked) > levelKnown && v.isIdle() {
			delete(l.levels, tenant)
			continue
		}
		clear(v.since)
		tenants = append(tenants, tenant)
	}
	return tenants, l.began
}

// isIdle reports whether nothing that was taken is to be done.
func (v *level) isIdle() bool {
	for _, n := range v.inHand {
		if n > 0 {
			return false
		}
	}
	return true
}
