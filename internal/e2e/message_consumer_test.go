package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/broker/amqp"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// This is a service of a team's own: a process whose handlers have an effect once, a row in the table effects. It is the
// test binary, started with consumerQueues in its environment, which names its queues.
const consumerQueues = "E2E_CONSUMER_QUEUES"

// poison is the payload of a message that kills each process that handles it.
const poison = "poison"

// startConsumer starts the process on the backends of env.
func startConsumer(t testing.TB, env map[string]string, queues ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return launch(t, "consumer", configured(exec.Command(self), with(env, map[string]string{consumerQueues: strings.Join(queues, ",")})))
}

// consumerMain is the main function of the process. It returns the exit status.
func consumerMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runConsumer(ctx, strings.Split(os.Getenv(consumerQueues), ",")); err != nil {
		fmt.Fprintln(os.Stderr, "consumer:", err)
		return 1
	}
	return 0
}

func runConsumer(ctx context.Context, queues []string) error {
	config := zap.NewProductionConfig()
	config.Sampling = nil
	log, err := config.Build()
	if err != nil {
		return err
	}
	url := os.Getenv("DATABASE_URL")
	db, err := pg.Open(ctx, pg.Config{URL: url, MaxConns: 3})
	if err != nil {
		return err
	}
	defer db.Close()
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: cmp.Or(os.Getenv("DATABASE_DIRECT_URL"), url), Log: log})
	if err != nil {
		return err
	}
	var carrier broker.Broker
	if os.Getenv("BROKER") == "rabbitmq" {
		if carrier, err = amqp.New(os.Getenv("AMQP_URL"), log); err == nil {
			carrier = broker.Named(carrier, func(ctx context.Context) (uuid.UUID, error) { return pg.Identity(ctx, db.System()) })
		}
	} else {
		var own *pg.DB
		if own, err = pg.Open(ctx, pg.Config{URL: url, MaxConns: 3}); err == nil {
			defer own.Close()
			carrier = postgres.New(own.System(), notifier, log)
		}
	}
	if err != nil {
		return err
	}
	service := message.New(message.Config{DB: db, Handlers: db, System: db.System(), Notifier: notifier, Broker: carrier, Log: log})
	var handlers []message.Handler
	for _, queue := range queues {
		handlers = append(handlers, message.HandleBytesTx(queue, effect(queue), message.Concurrency(4)))
	}

	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	group, base := errgroup.WithContext(base)
	group.Go(func() error { notifier.Run(base); return nil })
	group.Go(func() error { return carrier.Run(base) })
	group.Go(func() error { return service.Run(base) })
	alone := func(context.Context) ([]auth.Tenant, <-chan struct{}, error) {
		return []auth.Tenant{{Name: auth.DefaultTenant}}, nil, nil
	}
	worker := message.NewWorker(message.WorkerConfig{Service: service, Handlers: handlers, Tenants: alone, Drain: 5 * time.Second, Lines: log})
	err = worker.Run(ctx)
	stopBase()
	return errors.Join(err, group.Wait())
}

// effect returns the handler of a queue. Some first attempts fail after everything is done.
func effect(queue string) func(context.Context, *pg.Tx, message.Message) error {
	return func(ctx context.Context, tx *pg.Tx, m message.Message) error {
		if string(m.Body) == poison {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO effects (id, queue, payload) VALUES ($1, $2, $3)", m.ID, queue, string(m.Body)); err != nil {
			return err
		}
		if m.Attempt == 1 && rand.N(20) == 0 {
			return errors.New("a bad moment")
		}
		return nil
	}
}

// effects is the table of what consumers did. It has no constraint that would keep them from doing it twice.
type effects struct{ db *pgx.Conn }

func newEffects(t testing.TB, url string) effects {
	t.Helper()
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	if _, err := db.Exec(t.Context(), "CREATE TABLE effects (id text, queue text, payload text); GRANT INSERT ON effects TO plinth_app"); err != nil {
		t.Fatal(err)
	}
	return effects{db}
}

// place is a message and a queue in which it takes effect.
type place struct{ id, queue string }

// seen returns how often each effect was seen, by id and queue, and by payload and queue.
func (e effects) seen(t testing.TB) (places, payloads map[place]int) {
	t.Helper()
	places, payloads = map[place]int{}, map[place]int{}
	rows, err := e.db.Query(t.Context(), "SELECT id, queue, payload FROM effects")
	if err != nil {
		t.Fatal(err)
	}
	var id, queue, payload string
	if _, err := pgx.ForEachRow(rows, []any{&id, &queue, &payload}, func() error {
		places[place{id, queue}]++
		payloads[place{payload, queue}]++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return places, payloads
}

// some returns the first few, for an error message.
func some[T any](all []T) []T { return slices.Clip(all[:min(3, len(all))]) }
