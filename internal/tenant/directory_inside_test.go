package tenant

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// clock passes when it is told to.
type clock struct {
	start  time.Time
	passed atomic.Int64
}

func (c *clock) read() time.Time      { return c.start.Add(time.Duration(c.passed.Load())) }
func (c *clock) pass(d time.Duration) { c.passed.Add(int64(d)) }

// process is a service with a clock of its own.
type process struct {
	*Service
	*clock
	db    *pg.DB
	owner *pgxpool.Pool
}

func newProcess(t testing.TB, url string, conns int32) process {
	t.Helper()
	db, err := pg.Open(context.Background(), pg.Config{URL: url, MaxConns: conns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	s := New(db, zap.NewNop(), []string{"queues.read"}, auth.KeyHash{})
	c := &clock{start: time.Now()}
	s.now, s.start = c.read, c.start
	s.snapshot.Store(s.newSnapshot(-1, -time.Hour))
	return process{s, c, db, pgtest.Owner(t, url)}
}

func (p process) key(t testing.TB, expires time.Time) (secret, id string) {
	t.Helper()
	secret, k, err := p.CreateKey(t.Context(), Key{Scopes: []string{"*"}, ExpiresAt: expires})
	if err != nil {
		t.Fatal(err)
	}
	return secret, k.ID
}

// is fails where an Authenticate does not end so; no kind is that it succeeds.
func (p process) is(t testing.TB, secret string, kind errs.Kind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	who, err := p.Authenticate(ctx, secret)
	if (err == nil) != (kind == 0) || err != nil && !errs.Is(err, kind) || (who == nil) != (err != nil) {
		t.Errorf("%v, %v; want the kind %d", who, err, kind)
	}
}

func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 10 s: " + what)
		}
	}
}

// lock has every statement on a table wait until the function it gives is called.
func (p process) lock(t testing.TB, table string) (unlock func()) {
	t.Helper()
	tx, err := p.owner.Begin(context.Background())
	if err == nil {
		_, err = tx.Exec(context.Background(), `LOCK TABLE `+table+` IN ACCESS EXCLUSIVE MODE`)
	}
	if err != nil {
		t.Fatal(err)
	}
	unlock = sync.OnceFunc(func() { _ = tx.Rollback(context.Background()) })
	t.Cleanup(unlock)
	return unlock
}

// What was known is relied on for 900 ms, counted from before the question, and not one moment longer.
func TestHowLongAnAnswerHolds(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 2)
	secret, _ := p.key(t, time.Time{})
	p.is(t, secret, 0)
	p.db.Close() // PostgreSQL cannot be asked any longer.
	p.pass(maxStale)
	p.is(t, secret, 0)
	p.pass(1)
	p.is(t, secret, errs.Unavailable)
	p.is(t, auth.NewKey(), errs.Unavailable)
	for name, err := range map[string]error{
		"ActFor": func() error { _, err := p.ActFor(t.Context(), auth.Anonymous(), auth.DefaultTenant); return err }(),
		"Active": func() error { _, _, err := p.Active(t.Context()); return err }(),
	} {
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A question that others asked too long ago is not enough, however late its answer comes.
func TestAnOldQuestionIsNotEnough(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	unlock := p.lock(t, "tenant_changes")
	asked := make(chan error, 2)
	go func() { asked <- p.ask(context.Background()) }()
	waiting := func() bool {
		var n int
		_ = p.owner.QueryRow(context.Background(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tenant_changes'::regclass
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&n)
		return n > 0
	}
	await(t, "the first question", waiting)
	p.pass(time.Second)
	var snap *snapshot
	go func() {
		var err error
		snap, err = p.current(context.Background())
		asked <- err
	}()
	unlock()
	for range 2 {
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
	}
	if at := time.Duration(snap.confirmed.Load()); at != time.Second {
		t.Errorf("a call after 1 s relies on an answer to what was asked after %v", at)
	}
}

// This process's own change is seen by the very next call, though a question from before it is on its way.
func TestOwnChangeIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	secret, id := p.key(t, time.Time{})
	p.is(t, secret, 0)
	p.pass(time.Millisecond)
	if _, err := p.RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	// As the answer to a question from before would.
	p.snapshot.Load().confirmed.Store(int64(p.elapsed() - 1))
	p.is(t, secret, errs.Unauthenticated)
}

// held has the lookups of the present snapshot's keys wait, once they were read, until the function it gives is called. reads
// counts them.
func (p process) held(t testing.TB) (read <-chan struct{}, release func(), reads *atomic.Int64) {
	t.Helper()
	snap, err := p.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	was, released, done := snap.keys.read, make(chan struct{}), make(chan struct{}, 1)
	reads = &atomic.Int64{}
	snap.keys.read = func(ctx context.Context, keys []auth.KeyHash) (map[auth.KeyHash]*holder, error) {
		found, err := was(ctx, keys)
		reads.Add(1)
		select {
		case done <- struct{}{}:
		default:
		}
		<-released
		return found, err
	}
	release = sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	return done, release, reads
}

// What a lookup read before a revocation is not kept for calls after it.
func TestLookupFromBeforeARevocation(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	secret, id := p.key(t, time.Time{})
	read, release, _ := p.held(t)
	early := make(chan error, 1)
	go func() {
		_, err := p.Authenticate(context.Background(), secret)
		early <- err
	}()
	<-read // The key is good, says the lookup, and then
	p.pass(time.Millisecond)
	if _, err := p.RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	p.is(t, secret, errs.Unauthenticated)
	release()
	if err := <-early; err != nil {
		t.Errorf("the call from before: %v", err)
	}
	for range 3 {
		p.is(t, secret, errs.Unauthenticated)
		p.pass(maxStale / 2)
	}
}

// However many ask for a key, one lookup answers them all, also when the first of them goes away.
func TestOneLookupForAll(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	secret, _ := p.key(t, time.Time{})
	read, release, reads := p.held(t)
	first, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := p.Authenticate(first, secret)
		left <- err
	}()
	<-read
	leave()
	if err := <-left; !errs.Is(err, errs.Canceled) {
		t.Errorf("who went away got %v", err)
	}
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() { p.is(t, secret, 0) })
	}
	release()
	asking.Wait()
	if reads.Load() != 1 {
		t.Errorf("%d lookups", reads.Load())
	}
}

func TestExpiryByTheClock(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 2)
	secret, _ := p.key(t, p.now().Add(time.Hour).Truncate(time.Microsecond))
	p.is(t, secret, 0)
	p.pass(time.Hour - time.Millisecond)
	p.is(t, secret, 0)
	p.pass(time.Millisecond)
	p.is(t, secret, errs.Unauthenticated)
	if _, err := p.Authenticate(t.Context(), secret); !strings.Contains(err.Error(), "expired") {
		t.Error(err)
	}
}

// Keys that clients make up cost neither memory without bound nor all connections, and are remembered for a second.
func TestUnknownKeysAreBounded(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	_, release, reads := p.held(t)
	release()
	keys := p.snapshot.Load().keys
	const made = 2*maxUnknown + maxUnknown/2
	var flood sync.WaitGroup
	for range 50 {
		flood.Go(func() {
			for range made / 50 {
				p.is(t, auth.NewKey(), errs.Unauthenticated)
			}
		})
	}
	flood.Wait()
	if n := len(keys.unknown); n == 0 || n > maxUnknown {
		t.Errorf("%d unknown keys are remembered", n)
	}
	keys.known.Range(func(key, _ any) bool { t.Errorf("%v is known", key); return false })
	if n := reads.Load(); n > made/2 {
		t.Errorf("%d lookups for %d keys at the same time", n, made)
	}

	p.pass(unknownFor / 2)
	unknown, before := auth.NewKey(), reads.Load()
	for range 3 {
		p.is(t, unknown, errs.Unauthenticated)
	}
	if n := reads.Load() - before; n != 1 {
		t.Errorf("%d lookups of the same unknown key", n)
	}
	p.pass(unknownFor)
	p.is(t, unknown, errs.Unauthenticated)
	if n := reads.Load() - before; n != 2 {
		t.Errorf("%d lookups after a second", n)
	}
}

// Lookups that hang take one connection: the others go on.
func TestLookupsTakeOneConnection(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 2)
	unlock := p.lock(t, "api_keys")
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	if _, err := p.current(ctx); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		flood.Go(func() {
			for ctx.Err() == nil {
				_, _ = p.Authenticate(ctx, auth.NewKey())
			}
		})
	}
	keys := p.snapshot.Load().keys
	await(t, "most wait for the next lookup", func() bool {
		keys.mu.Lock()
		defer keys.mu.Unlock()
		return keys.asked != nil && keys.next != nil && len(keys.next.keys) > 50
	})
	for range 10 {
		quick, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := p.ask(quick); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	unlock()
	await(t, "the lookups go on", func() bool {
		_, err := p.Authenticate(t.Context(), auth.NewKey())
		return errs.Is(err, errs.Unauthenticated)
	})
}

// More keys than fit into a question are told to come back.
func TestTooManyLookups(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	c := newCache(time.Now, func(_ context.Context, keys []int) (map[int]*int, error) {
		close(begun)
		<-release
		begun = make(chan struct{})
		return map[int]*int{}, nil
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = c.get(gone, -1)
	<-begun
	for i := range maxAsked {
		if _, err := c.get(gone, i); !errs.Is(err, errs.Canceled) {
			t.Fatal(err)
		}
	}
	if _, err := c.get(t.Context(), maxAsked); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if len(c.next.keys) != maxAsked {
		t.Errorf("%d keys wait", len(c.next.keys))
	}
	close(release)
	if v, err := c.get(t.Context(), 0); v != nil || err != nil {
		t.Error(v, err)
	}
}

// Ten thousand keys are each their own, and forgetting all of them costs no statement for each.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	const many = 10_000
	secrets, hashes := make([]string, many), make([][]byte, many)
	for i := range secrets {
		secrets[i] = auth.NewKey()
		hash, _ := auth.HashKey(secrets[i])
		hashes[i] = hash[:]
	}
	var ids []string
	if err := p.db.System().QueryRow(t.Context(), `WITH made AS (INSERT INTO api_keys (id, tenant, hash, display_name, prefix, scopes, rate_limit)
		SELECT gen_random_uuid(), 'default', hash, n::text, '', '{*}', '' FROM unnest($1::bytea[]) WITH ORDINALITY AS h (hash, n) RETURNING id, display_name)
		SELECT array_agg(id::text ORDER BY display_name::int) FROM made`, hashes).Scan(&ids); err != nil {
		t.Fatal(err)
	}
	all := func(revoked int) {
		_, release, reads := p.held(t)
		release()
		var asking sync.WaitGroup
		for part := range 100 {
			asking.Go(func() {
				for i := part; i < many; i += 100 {
					switch who, err := p.Authenticate(t.Context(), secrets[i]); {
					case i == revoked:
						if !errs.Is(err, errs.Unauthenticated) {
							t.Errorf("the revoked key: %v", err)
						}
					case err != nil || who.ID != "key:"+ids[i]:
						t.Errorf("%v, %v; want %s", who, err, ids[i])
					}
				}
			})
		}
		asking.Wait()
		if n := reads.Load(); n > many/4 {
			t.Errorf("%d lookups", n)
		}
	}
	all(-1)
	p.pass(time.Millisecond)
	if _, err := p.RevokeKey(t.Context(), ids[77]); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	all(77)
	t.Logf("all of %d keys looked up after a change in %v", many, time.Since(began))
	p.flushUsed(t.Context())
	var written int
	if err := p.owner.QueryRow(t.Context(), `SELECT count(last_used_at) FROM api_keys`).Scan(&written); err != nil || written != many {
		t.Errorf("the use of %d is written, %v", written, err)
	}
}
