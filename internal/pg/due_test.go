package pg_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// worker is a process that runs a Due.
type worker struct {
	*pg.Notifier
	log  *observer.ObservedLogs
	done chan struct{} // has a token for each call of Work
	stop func()
}

// startWorker starts a worker; work may be nil.
func startWorker(t *testing.T, url string, lanes int, work func(more func()) (time.Duration, error)) *worker {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	w := &worker{Notifier: newNotifier(t, url), log: logs, done: make(chan struct{}, 1000)}
	due := w.NewDue(pg.DueConfig{
		What: "rows", Channel: "plinth_test", Payload: "rows", Lanes: lanes, Log: zap.New(core),
		Late: `SELECT coalesce(now() - min(due_at), '-1 hour') FROM periodic`, // A table that is there.
		Work: func(_ context.Context, more func()) (time.Duration, error) {
			defer func() { w.done <- struct{}{} }()
			if work == nil {
				return time.Hour, nil
			}
			return work(more)
		},
	})
	stopNotifier := run(t, w.Notifier)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- due.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		stopNotifier()
	})
	t.Cleanup(w.stop)
	return w
}

func (w *worker) wantWork(t *testing.T, why string) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatalf("no work: %s", why)
	}
}

// settled blocks until both workers have worked once after their start and one of them leads. It returns the leader first.
func settled(t *testing.T, n *pg.Notifier, workers ...*worker) (leader, other *worker) {
	t.Helper()
	for _, w := range workers {
		w.wantWork(t, "the first look")
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for _, w := range workers {
			for len(w.done) > 0 {
				<-w.done
			}
		}
		n.Notify("plinth_test", "rows")
		select {
		case <-workers[0].done:
			return workers[0], workers[1]
		case <-workers[1].done:
			return workers[1], workers[0]
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatal("nobody leads")
	return nil, nil
}

// A notification wakes one process. When that process ends, another one is woken.
func TestDueWakesOneProcess(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	sender := newNotifier(t, url)
	run(t, sender)
	leader, other := settled(t, sender, startWorker(t, url, 1, nil), startWorker(t, url, 1, nil))
	for range 5 {
		sender.Notify("plinth_test", "rows")
		leader.wantWork(t, "a wake")
	}
	sender.Notify("plinth_test", "others")
	if n := len(other.done); n != 0 {
		t.Errorf("the other worked %d times for wakes of the leader", n)
	}
	leader.stop()
	deadline := time.After(patience)
	for woken := false; !woken; {
		sender.Notify("plinth_test", "rows")
		select {
		case <-other.done:
			woken = true
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatal("nobody was woken after the end of the leader")
		}
	}
}

// If the leader does not keep up, the other processes help without being woken.
func TestDueJoinsALeaderThatIsLate(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	sender := newNotifier(t, url)
	run(t, sender)
	_, other := settled(t, sender, startWorker(t, url, 1, nil), startWorker(t, url, 1, nil))
	exec(t, open(t, pg.Config{URL: url}).System(), `INSERT INTO periodic VALUES ('a row that the leader leaves', now())`)
	other.wantWork(t, "rows are late")
}

// A lane that leaves due rows behind starts another lane at once. Rows that are due later are slept for.
func TestDueLanes(t *testing.T) {
	t.Parallel()
	var began atomic.Int32
	both := make(chan struct{})
	var times []time.Duration
	start := time.Now()
	var mu sync.Mutex
	w := startWorker(t, pgtest.New(t), 2, func(more func()) (time.Duration, error) {
		mu.Lock()
		times = append(times, time.Since(start))
		mu.Unlock()
		switch began.Add(1) {
		case 1:
			more()
			<-both // Otherwise the test runs into its timeout.
		case 2:
			close(both)
		}
		return 300 * time.Millisecond, nil
	})
	for range 3 {
		w.wantWork(t, "two lanes, and again later")
	}
	mu.Lock()
	defer mu.Unlock()
	if slept := times[2] - times[1]; slept > 5*time.Second {
		t.Errorf("slept %v for what was due after 300 ms", slept)
	}
}

// Work that fails is logged and tried again after a back-off.
func TestDueTriesAgain(t *testing.T) {
	t.Parallel()
	var failures atomic.Int32
	w := startWorker(t, pgtest.New(t), 1, func(func()) (time.Duration, error) {
		if failures.Add(1) < 3 {
			return 0, errors.New("no luck")
		}
		return time.Hour, nil
	})
	for range 3 {
		w.wantWork(t, "another try")
	}
	if n := w.log.FilterMessage("rows cannot be worked off, trying again").Len(); n != 2 {
		t.Errorf("%d lines, want 2", n)
	}
}
