package pg_test

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// silenceable returns a URL that leads to the server through a proxy, and a function that has the proxy discard all data of
// open connections and of later ones, as if the other end had vanished, until heal is called.
func silenceable(t *testing.T, databaseURL string) (through string, silence func() (heal func())) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	zerolog.SetGlobalLevel(zerolog.Disabled)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", u.Host)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proxy.Toxics.ResetToxics(context.Background())
		proxy.Stop()
	})
	u.Host = proxy.Listen
	return u.String(), func() func() {
		for _, way := range []string{"upstream", "downstream"} {
			if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(
				`{"name": "` + way + `", "type": "timeout", "stream": "` + way + `", "attributes": {"timeout": 0}}`)); err != nil {
				t.Fatal(err)
			}
		}
		return func() { proxy.Toxics.ResetToxics(context.Background()) }
	}
}

// TestSilentServer has a server vanish beneath statements and beneath idle connections. Without a limit of the pool's own, each
// call takes all of its time.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	through, silence := silenceable(t, pgtest.New(t))
	db := open(t, pg.Config{URL: through, MaxConns: 4})
	sleep := func(seconds float64) error {
		return db.InTx(patient(t), func(tx *pg.Tx) error { _, err := tx.Exec(patient(t), `SELECT pg_sleep($1)`, seconds); return err })
	}
	query := func() error { _, err := db.Exec(patient(t), `SELECT 1`); return err }
	wantUnavailable := func(what string, call func() error) {
		start := time.Now()
		if err := call(); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v, want errs.Unavailable", what, err)
		}
		if took := time.Since(start); took > patience/2 {
			t.Errorf("%s took %v", what, took)
		}
	}
	inUse := func() int32 { return db.Pool().Stat().AcquiredConns() }
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			if err := sleep(0.2); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()

	for range 2 {
		calls.Go(func() {
			wantUnavailable("a statement that was running", func() error { return sleep(patience.Seconds()) })
		})
	}
	for deadline := time.Now().Add(patience); inUse() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no statement runs")
		}
	}
	heal := silence()
	wantUnavailable("a statement on an idle connection", query)
	calls.Wait()
	if idle := db.Pool().Stat().IdleConns(); idle > 0 {
		t.Errorf("%d connections wait for their next statement to find out", idle)
	}
	wantUnavailable("all of many statements", func() (err error) {
		for range 8 {
			err = query()
		}
		return err
	})
	heal()
	for deadline := time.Now().Add(patience); query() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no statement succeeds although the server is back")
		}
	}
	for range 8 {
		calls.Go(func() {
			if err := sleep(0.1); err != nil {
				t.Errorf("after the server was back: %v", err)
			}
		})
	}
	calls.Wait()
}

// TestSilentStatement has a statement take longer than it takes to find a server silent.
func TestSilentStatement(t *testing.T) {
	t.Parallel()
	db := open(t, pg.Config{URL: pgtest.New(t)})
	if slept := scalar[bool](t, db, `SELECT pg_sleep(6) IS NOT NULL`); !slept {
		t.Error("did not sleep")
	}
}
