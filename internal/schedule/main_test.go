package schedule_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/outbound"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
	"plinth/internal/schedule"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// fixture is a database of the test's own, with a queue that schedules publish to.
type fixture struct {
	db    *pg.DB
	owner pg.Querier
	url   string
	log   *zap.Logger
	logs  *observer.ObservedLogs
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return fixtureOn(t, pgtest.New(t))
}

// fixtureOn is newFixture with a database.
func fixtureOn(t *testing.T, url string) *fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	db, err := pg.Open(t.Context(), pg.Config{URL: url, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return &fixture{db, pgtest.Owner(t, url), url, zap.New(core), logs}
}

// process is what one process of the service has.
type process struct {
	*schedule.Service
	messages *message.Service
	notifier *pg.Notifier
}

// process returns the service of one more process. Its engine does not run yet.
func (f *fixture) process(t *testing.T, jobs ...schedule.Job) *process {
	t.Helper()
	return f.configured(t, schedule.Config{Jobs: jobs})
}

func (f *fixture) configured(t *testing.T, c schedule.Config) *process {
	t.Helper()
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: f.db.System(), URL: f.url, Log: f.log})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{notifier: notifier}
	p.messages = message.New(message.Config{
		DB: f.db, Handlers: f.db, System: f.db.System(), Notifier: notifier, Broker: postgres.New(f.db.System(), notifier, f.log), Tracing: c.Tracing, Log: f.log,
	})
	c.Limits.Attempts = 64
	c.Outbound = outbound.New(outbound.Config{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 10 * time.Second})
	c.DB, c.System, c.Notifier, c.Messages, c.Worker, c.Log = f.db, f.db.System(), notifier, p.messages, "worker-"+t.Name(), f.log
	p.Service = schedule.New(c)
	run(t, func(ctx context.Context) error { notifier.Run(ctx); return nil })
	return p
}

// work runs the engine of a process until the test, or stop, ends it.
func (p *process) work(t *testing.T) (stop func()) {
	t.Helper()
	return run(t, p.Work)
}

// run runs a part until the test ends.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("a part does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// as returns a context of a tenant's principal.
func as(t *testing.T, tenant string) context.Context {
	t.Helper()
	return auth.With(t.Context(), &auth.Principal{ID: "key:" + tenant, Tenant: auth.Tenant{Name: tenant}, Scopes: []string{auth.All}})
}

func parse(t *testing.T, name string) schedule.Name {
	t.Helper()
	n, err := schedule.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// queue makes a queue for messages of schedules.
func (f *fixture) queue(t *testing.T, tenant, name string) {
	t.Helper()
	f.exec(t, `INSERT INTO queues (tenant, name) VALUES ($1, $2)`, tenant, name)
}

func (f *fixture) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := f.owner.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) count(t *testing.T, sql string, args ...any) (n int64) {
	t.Helper()
	if err := f.owner.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// every is a definition that publishes to the queue q.
func every(interval time.Duration) schedule.Definition {
	return schedule.Definition{Timing: schedule.Timing{Interval: interval}, Action: publishTo("q")}
}

func publishTo(queue string) schedule.Action {
	return schedule.Action{Publish: &schedule.Publish{Queue: queue, Text: "{{run_id}}"}}
}

// eventually polls until ok, for up to 20 seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not happen: %s", what)
		}
	}
}

// runs returns the runs of a schedule, the earliest first.
func runs(t *testing.T, p *process, ctx context.Context, name string) []schedule.Run {
	t.Helper()
	all, _, err := p.ListRuns(ctx, parse(t, name), schedule.RunFilter{}, 1000, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
		all[i], all[j] = all[j], all[i]
	}
	return all
}
