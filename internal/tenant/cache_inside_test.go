package tenant

import (
	"context"
	"sync"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// Invented keys neither use unbounded memory nor all connections, and are remembered for a second.
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
	for i := range keys.shards {
		if n := len(keys.shards[i].values); n != 0 {
			t.Errorf("%d keys are known", n)
		}
	}
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

// Lookups that hang use only one connection.
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

// Keys that do not fit into a query are refused as unavailable.
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

// Lookups work while all connections of calls are in use.
func TestConnectionsOfItsOwn(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 1)
	secret, _ := p.key(t, time.Time{})
	err := p.db.InTx(t.Context(), func(*pg.Tx) error {
		for range 3 {
			p.pass(time.Minute) // Everything that is cached is too old.
			p.is(t, secret, 0)
			if _, err := p.ActFor(t.Context(), &auth.Principal{}, auth.DefaultTenant); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A mistyped key is refused without a query.
func TestTypingError(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	_, release, reads := p.held(t)
	release()
	for _, key := range []string{"", "plinth_", "plinth_0123456789ABCDEFGHIJKLMNOPQRSTUV1ggZdl", auth.NewKey() + "0"} {
		p.is(t, key, errs.Unauthenticated)
	}
	if n := reads.Load(); n != 0 {
		t.Errorf("%d lookups", n)
	}
}

// Each of ten thousand keys has its own principal, and looking all of them up again does not take a statement for each.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	const many = 10_000
	secrets, hashes := make([]string, many), make([][]byte, many)
	for i := range secrets {
		secrets[i] = auth.NewKey()
		hash := auth.HashKey(secrets[i])
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
	if _, err := p.RevokeApiKey(t.Context(), ids[77]); err != nil {
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
