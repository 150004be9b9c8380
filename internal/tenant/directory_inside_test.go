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
	"plinth/internal/loop"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// clock is a clock that the test advances.
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
	var pools [2]*pg.DB
	for i := range pools {
		var err error
		if pools[i], err = pg.Open(context.Background(), pg.Config{URL: url, MaxConns: conns}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pools[i].Close)
	}
	db := pools[0]
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{DB: db, Notifier: notifier, Directory: pools[1].System(), Scopes: []string{"queues.read"}, Log: zap.NewNop()})
	c := &clock{start: time.Now()}
	s.now, s.start = c.read, c.start
	s.snapshot.Store(s.newSnapshot(-1, -time.Hour))
	return process{s, c, db, pgtest.Owner(t, url)}
}

func (p process) key(t testing.TB, expires time.Time) (secret, id string) {
	t.Helper()
	secret, k, err := p.CreateApiKey(t.Context(), Key{Scopes: []string{"*"}, ExpiresAt: expires})
	if err != nil {
		t.Fatal(err)
	}
	return secret, k.ID
}

// is checks that Authenticate returns an error of the given kind, or none if the kind is empty.
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

// lock blocks every statement on a table until the returned function is called.
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

// A snapshot is used for 900 ms from the time before it was confirmed, and not longer.
func TestHowLongAnAnswerHolds(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 2)
	secret, _ := p.key(t, time.Time{})
	p.is(t, secret, 0)
	p.db.Close() // PostgreSQL cannot be asked any longer.
	p.directory.Close()
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

// The answer of a query that other calls began too long ago is not used, however late it comes.
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
	// Although nothing has changed when it is asked again, the time of the question counts.
	unlock = p.lock(t, "tenant_changes")
	go func() { asked <- p.ask(context.Background()) }()
	await(t, "another question", waiting)
	p.pass(time.Minute)
	unlock()
	if err := <-asked; err != nil || p.snapshot.Load() != snap {
		t.Fatal("nothing has changed", err)
	}
	if at := time.Duration(snap.confirmed.Load()); at != time.Second {
		t.Errorf("it is confirmed for %v", at)
	}
}

// This process's own change is seen by the very next call, though a question from before it is on its way.
func TestOwnChangeIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	secret, id := p.key(t, time.Time{})
	p.is(t, secret, 0)
	p.pass(time.Millisecond)
	if _, err := p.RevokeApiKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	// As the answer to a question from before the change would.
	p.snapshot.Load().confirmed.Store(int64(p.elapsed() - 1))
	p.is(t, secret, errs.Unauthenticated)
}

// held blocks the lookups of the current snapshot's keys, after they were read, until the returned function is called. reads
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

// The result of a lookup from before a revocation is not used for calls after it.
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
	<-read // The lookup has found the key valid, and then
	p.pass(time.Millisecond)
	if _, err := p.RevokeApiKey(t.Context(), id); err != nil {
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

// One lookup answers all calls that ask for a key, even if the first of them goes away.
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

// While there are no calls, a process asks for changes after a notification, and otherwise seldom. After a call it asks
// often again.
func TestIdleProcessAsksSeldom(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 2)
	secret, _ := p.key(t, time.Time{})
	p.pass(busyFor + 1)
	ctx, cancel := context.WithCancel(t.Context())
	following := make(chan error, 1)
	go func() { following <- p.follow(ctx) }()
	defer func() { cancel(); <-following }()
	confirmed := func() time.Duration { return time.Duration(p.snapshot.Load().confirmed.Load()) }
	asks := func(why string) { t.Helper(); await(t, why, func() bool { return confirmed() == p.elapsed() }) }
	quiet := func(why string) {
		t.Helper()
		<-time.After(3 * followEvery)
		if confirmed() == p.elapsed() {
			t.Error("it asks " + why)
		}
	}
	quiet("when nobody calls")
	loop.Signal(p.heard)
	asks("after a notification")
	p.pass(followIdle - 1)
	quiet("within ten seconds of the last time")
	p.pass(1)
	asks("after ten seconds")
	p.pass(time.Second)
	quiet("after one more")
	p.is(t, secret, 0)
	p.pass(followEvery)
	asks("after a call")
}
