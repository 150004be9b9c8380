package app

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// TestStuckHandlers has handlers hold transactions and never end. The process stays ready, and stops within SHUTDOWN_TIMEOUT.
func TestStuckHandlers(t *testing.T) {
	t.Parallel()
	const messages, timeout = 24, 3 * time.Second
	cfg, err := ParseConfig(Server, map[string]string{
		"AUTH_ADMIN_KEY": auth.NewKey(), "ADMIN_ADDR": "", "HTTP_ADDR": "127.0.0.1:0", "SHUTDOWN_TIMEOUT": timeout.String(), "WORKER_INLINE": "true",
		"DATABASE_MAX_CONNS": "8", "DATABASE_URL": pgtest.New(t), "REDIS_URL": "redis://" + miniredis.RunT(t).Addr(), "BROKER": postgresBroker,
	})
	if err != nil {
		t.Fatal(err)
	}
	logs, err := observe.NewLogs(observe.LogConfig{Level: "error", Format: "console"})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	a, err := build(t.Context(), cfg, logs)
	if err != nil {
		t.Fatal(err)
	}
	never := make(chan struct{})
	defer close(never) // The database is dropped after it.
	stuck := make(chan struct{}, messages)
	a.worker = message.NewWorker(message.WorkerConfig{
		Service: a.messages, Tenants: a.tenants.Active, Drain: timeout / 2, Lines: zap.NewNop(),
		Handlers: []message.Handler{message.HandleBytesTx("stuck", func(context.Context, *pg.Tx, message.Message) error {
			stuck <- struct{}{}
			<-never
			return nil
		}, message.Concurrency(messages))},
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		defer a.close()
		_ = a.run(ctx)
	}()
	readiness := func() int {
		w := httptest.NewRecorder()
		a.health.serveReady(w, nil)
		return w.Code
	}
	for deadline := time.Now().Add(30 * time.Second); readiness() != http.StatusOK; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never ready")
		}
	}
	queue, err := message.ParseQueueName("stuck")
	if err != nil {
		t.Fatal(err)
	}
	for range messages {
		if _, err := a.messages.Publish(auth.AsService(t.Context(), auth.DefaultTenant), message.Publication{
			To: message.ToQueue(queue), Body: []byte("x"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, share := cfg.Database.shares(postgresBroker)
	for range share {
		<-stuck
	}
	for until := time.Now().Add(checkTimeout + 2*checkEvery); time.Now().Before(until); <-time.After(20 * time.Millisecond) {
		if code := readiness(); code != http.StatusOK {
			t.Fatalf("while handlers hold all of their connections, /readyz answers %d", code)
		}
	}
	stop()
	began := time.Now()
	select {
	case <-stopped:
		if took := time.Since(began); took > timeout+time.Second {
			t.Errorf("the shutdown took %s of %s", took, timeout)
		}
	case <-time.After(30 * time.Second):
		t.Error("the shutdown waits for a handler that never ends")
	}
}
