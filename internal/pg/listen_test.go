package pg_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// listen gives the payloads that Listen hears, until the test is over.
func listen(t *testing.T, url, channel string) <-chan string {
	t.Helper()
	heard := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- pg.Listen(ctx, url, channel, zap.NewNop(), func(payload string) { heard <- payload })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Listen: %v, want nil", err)
			}
		case <-time.After(patience):
			t.Error("Listen did not end with its context")
		}
	})
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
	db := open(t, pg.Config{URL: url})
	heard := listen(t, url, "work")
	wantHeard(t, heard, "")

	n := pg.NewNotifier(db)
	for range 1000 {
		n.Notify("work", "a")
		n.Notify("work", "b")
		n.Notify("other", "c")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	first := []string{<-heard, <-heard}
	slices.Sort(first)
	if !slices.Equal(first, []string{"a", "b"}) {
		t.Errorf("heard %q, want a and b once each", first)
	}
	n.Notify("work", "next")
	wantHeard(t, heard, "next")

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
}

func TestNotifierSendsWhatIsPendingWhenItEnds(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	heard := listen(t, url, "work")
	wantHeard(t, heard, "")
	n := pg.NewNotifier(open(t, pg.Config{URL: url}))
	n.Notify("work", "last")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	wantHeard(t, heard, "last")
}
