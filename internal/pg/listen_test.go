package pg_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func newNotifier(t *testing.T, url string) *pg.Notifier {
	t.Helper()
	n, err := pg.NewNotifier(pg.NotifierConfig{System: open(t, pg.Config{URL: url}).System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a Notifier until stop is called or the test ends.
func run(t *testing.T, n *pg.Notifier) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { n.Run(ctx); close(ended) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("Run did not end with its context")
		}
	})
	t.Cleanup(stop)
	return stop
}

// listen returns a channel of the payloads sent to a PostgreSQL channel, until the test ends.
func listen(t *testing.T, url, channel string) <-chan string {
	t.Helper()
	heard := make(chan string, 100)
	n := newNotifier(t, url)
	n.Subscribe(channel, func(payload string) { heard <- payload })
	run(t, n)
	return heard
}

func wantHeard(t *testing.T, heard <-chan string, want string) {
	t.Helper()
	select {
	case got := <-heard:
		if got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("did not hear %q", want)
	}
}

func TestListenSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	owner := pgtest.Owner(t, url)
	heard := listen(t, url, "Some channel")
	wantHeard(t, heard, "")
	for range 2 {
		exec(t, owner, "SELECT pg_notify('Some channel', 'one'), pg_notify('some channel', 'other')")
		exec(t, owner, "SELECT pg_notify('Some channel', 'two')")
		wantHeard(t, heard, "one")
		wantHeard(t, heard, "two")
		exec(t, owner, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		wantHeard(t, heard, "")
	}
}

func TestNotifierSendsEachDistinctNotificationOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	heard := listen(t, url, "work")
	wantHeard(t, heard, "")

	n := newNotifier(t, url)
	for range 1000 {
		n.Notify("work", "a")
		n.Notify("work", "b")
		n.Notify("other", "c")
	}
	run(t, n)
	first := []string{<-heard, <-heard}
	slices.Sort(first)
	if !slices.Equal(first, []string{"a", "b"}) {
		t.Errorf("heard %q, want a and b once each", first)
	}
	n.Notify("work", "next")
	wantHeard(t, heard, "next")
}

func TestNotifierSendsWhatIsPendingWhenItEnds(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	heard := listen(t, url, "work")
	wantHeard(t, heard, "")
	n := newNotifier(t, url)
	n.Notify("work", "last")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.Run(ctx)
	wantHeard(t, heard, "last")
}
