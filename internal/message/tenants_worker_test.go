package message_test

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// active is a list of tenants that can be changed.
type active struct {
	mu      sync.Mutex
	tenants []auth.Tenant
	changed chan struct{}
}

func actives(names ...string) *active {
	a := &active{changed: make(chan struct{})}
	a.set(names...)
	return a
}

func (a *active) set(names ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tenants = nil
	for _, name := range names {
		a.tenants = append(a.tenants, auth.Tenant{Name: name})
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *active) list(context.Context) ([]auth.Tenant, <-chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tenants, a.changed, nil
}

// TestWorkerOfTenants has a handler with a transaction handle a message with the same id for two tenants, and publish.
func TestWorkerOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	effects := f.effects(t)
	follow := name(t, "follow-ups")
	for _, tenant := range []string{"a", "b"} {
		f.queueAs(t, tenant, "follow-ups", message.Policy{})
	}
	f.workerFor(t, actives("a", "b").list, time.Second, message.HandleBytesTx("tasks", func(ctx context.Context, tx *pg.Tx, m message.Message) error {
		p := auth.From(ctx)
		if p.ID != "service" || !p.Allows("messages.publish") || p.Tenant.Name != string(m.Body) {
			t.Errorf("%q is handled as %+v", m.Body, p)
		}
		if _, err := f.PublishTx(ctx, tx, to(follow, p.Tenant.Name)); err != nil {
			return err
		}
		return insert(ctx, tx, m)
	}))
	id := uuid.Must(uuid.NewV7()).String()
	for _, tenant := range []string{"a", "b"} {
		f.queueAs(t, tenant, "tasks", message.Policy{})
		for range 2 { // The second time has no effect.
			m := broker.Message{ID: id, Body: []byte(tenant)}
			if err := f.broker.Publish(within(t), broker.Address{Queue: tenant + ".tasks"}, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tenant := range []string{"a", "b"} {
		if m := one(t, f.subscribeAs(t, tenant, follow)); string(m.Body) != tenant {
			t.Errorf("%q came to %s", m.Body, tenant)
		}
	}
	f.handled(t, 4)
	if n := f.count(t, `SELECT count(*) FROM effects WHERE tenant = body`); n != 2 || effects() != 0 {
		t.Errorf("%d effects, of them %d of the default tenant", n, effects())
	}
	lines := map[any]int{}
	for _, entry := range f.logs.FilterMessage("message handled").All() {
		lines[entry.ContextMap()["tenant"]]++
	}
	if lines["a"] != 2 || lines["b"] != 2 {
		t.Errorf("lines %v", lines)
	}
}

// bodies returns a handler that reports what it handles, as tenant and body. If the body is "slow" it waits for leave.
func bodies(handled chan<- string, leave <-chan struct{}, options ...message.Option) message.Handler {
	return message.HandleBytes("tasks", func(ctx context.Context, m message.Message) error {
		handled <- auth.TenantOf(ctx) + " " + string(m.Body)
		if string(m.Body) == "slow" {
			select {
			case <-leave:
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	}, options...)
}

func wantHandled(t *testing.T, handled <-chan string, want string) {
	t.Helper()
	select {
	case got := <-handled:
		if got != want {
			t.Fatalf("%q is handled, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%q is not handled", want)
	}
}

func wantNoneHandled(t *testing.T, handled <-chan string) {
	t.Helper()
	select {
	case got := <-handled:
		t.Errorf("%q is handled", got)
	case <-time.After(300 * time.Millisecond):
	}
}

// publishTask publishes to the queue of the handler, and creates it if the tenant has none.
func (f fixture) publishTask(t *testing.T, tenant, body string) {
	t.Helper()
	_, err := f.Publish(as(t, tenant), to(name(t, "tasks"), body))
	if errs.Is(err, errs.NotFound) {
		f.queueAs(t, tenant, "tasks", message.Policy{})
		_, err = f.Publish(as(t, tenant), to(name(t, "tasks"), body))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTenantsComeAndGo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled, leave := make(chan string, 10), make(chan struct{})
	tenants := actives("a")
	f.workerFor(t, tenants.list, time.Minute, bodies(handled, leave))
	q := name(t, "tasks")
	f.publishTask(t, "a", "first")
	wantHandled(t, handled, "a first")
	if _, err := f.GetQueue(as(t, "b"), q); !errs.Is(err, errs.NotFound) {
		t.Errorf("b's queue is there before b: %v", err)
	}
	tenants.set("a", "b")
	f.publishTask(t, "b", "slow")
	wantHandled(t, handled, "b slow")

	tenants.set("a") // b gets no new messages, and finishes those that it holds.
	f.publishTask(t, "b", "second")
	wantNoneHandled(t, handled)
	tenants.set("b") // Once that is done b gets messages again, and a no longer.
	wantNoneHandled(t, handled)
	close(leave)
	wantHandled(t, handled, "b second")
	f.publishTask(t, "a", "second")
	wantNoneHandled(t, handled)
	f.handled(t, 3)
	if got, err := f.GetQueue(as(t, "a"), q); err != nil || got.Stats.Depth != 1 || got.Stats.Waiting != 0 {
		t.Errorf("a's queue without a: %+v %v", got.Stats, err)
	}
	tenants.set()
	f.publishTask(t, "b", "third")
	wantNoneHandled(t, handled)
	tenants.set("a", "b")
	if got := map[string]bool{<-handled: true, <-handled: true}; !got["a second"] || !got["b third"] {
		t.Errorf("%v", got)
	}
}

// TestTenantThatGoesIsDrained has a handler that takes longer than the drain allows.
func TestTenantThatGoesIsDrained(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled := make(chan string, 10)
	tenants := actives("a")
	f.workerFor(t, tenants.list, 50*time.Millisecond, bodies(handled, nil))
	f.publishTask(t, "a", "slow")
	wantHandled(t, handled, "a slow")
	tenants.set()
	f.line(t, "message given back")
	eventually(t, "it is in the queue again", func() bool {
		got, err := f.GetQueue(as(t, "a"), name(t, "tasks"))
		return err == nil && got.Stats.Depth == 1
	})
	wantNoneHandled(t, handled)
}

// TestTenantsThatCannotBeRead makes the list of tenants fail at the start, and later.
func TestTenantsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled := make(chan string, 10)
	tenants := actives("a")
	var calls atomic.Int32
	failing := func(ctx context.Context) ([]auth.Tenant, <-chan struct{}, error) {
		if n := calls.Add(1); n == 1 || n == 3 {
			return nil, nil, errors.New("not now")
		}
		return tenants.list(ctx)
	}
	f.workerFor(t, failing, time.Second, bodies(handled, nil))
	f.publishTask(t, "a", "first")
	wantHandled(t, handled, "a first")
	tenants.set("a", "b")
	f.publishTask(t, "a", "second")
	wantHandled(t, handled, "a second")
	f.publishTask(t, "b", "third")
	wantHandled(t, handled, "b third")
	if n := f.logs.FilterMessage("the tenants cannot be read, trying again").Len(); n != 2 || calls.Load() != 4 {
		t.Errorf("%d lines of %d calls", n, calls.Load())
	}
}

// TestHandlersKnowWhatIsAllowedNow changes a tenant's quotas while its handler runs.
func TestHandlersKnowWhatIsAllowedNow(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled := make(chan int64, 10)
	tenants := actives("a")
	f.workerFor(t, tenants.list, time.Second, message.HandleBytes("tasks", func(ctx context.Context, _ message.Message) error {
		handled <- auth.From(ctx).Tenant.Quotas["queues"]
		return nil
	}))
	f.publishTask(t, "a", "first")
	if n := <-handled; n != 0 {
		t.Errorf("%d queues", n)
	}
	tenants.mu.Lock()
	tenants.tenants = []auth.Tenant{{Name: "a", Quotas: map[string]int64{"queues": 7}}}
	close(tenants.changed)
	tenants.changed = make(chan struct{})
	tenants.mu.Unlock()
	eventually(t, "the new quota is known", func() bool {
		f.publishTask(t, "a", "again")
		return <-handled == 7
	})
}

func TestConcurrencyOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled, leave := make(chan string, 10), make(chan struct{})
	f.workerFor(t, actives("a", "b").list, time.Second, bodies(handled, leave, message.Concurrency(2)))
	got := map[string]int{}
	for _, tenant := range []string{"a", "b"} {
		for range 3 {
			f.publishTask(t, tenant, "slow")
		}
	}
	for range 4 {
		got[<-handled]++
	}
	if got["a slow"] != 2 || got["b slow"] != 2 {
		t.Errorf("%v", got)
	}
	wantNoneHandled(t, handled)
	for _, tenant := range []string{"a", "b"} { // No message is received before it can be handled.
		if n, err := f.broker.Ready(within(t), tenant+".tasks"); n != 1 || err != nil {
			t.Errorf("%d are left in %s's queue, %v", n, tenant, err)
		}
	}
	close(leave)
	<-handled
	<-handled
}

// TestSlowMessagesHoldUpNobody has two processes, one of them with a slow message.
func TestSlowMessagesHoldUpNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	handled, leave := make(chan string, 100), make(chan struct{})
	other := f.another(t)
	f.workerFor(t, actives("a").list, time.Second, bodies(handled, leave))
	f.publishTask(t, "a", "slow")
	wantHandled(t, handled, "a slow")
	other.workerFor(t, actives("a").list, time.Second, bodies(handled, leave))
	for range 20 {
		f.publishTask(t, "a", "fast")
	}
	for range 20 {
		wantHandled(t, handled, "a fast")
	}
	close(leave)
}

func TestEnsureQueues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	w := message.NewWorker(message.WorkerConfig{
		Service: f.Service, Handlers: []message.Handler{bodies(nil, nil)}, Tenants: actives("a").list, Lines: f.log,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // Nobody's.
	defer cancel()
	if err := w.EnsureQueues(ctx); err != nil {
		t.Fatal(err)
	}
	n := f.count(t, `SELECT count(*) FROM queues WHERE tenant = 'default' AND name = 'tasks'`)
	if n != 1 || f.count(t, `SELECT count(*) FROM queues`) != 1 {
		t.Errorf("%d queues of the default tenant", n)
	}
}

// TestIdleTenantsCostLittle counts goroutines, so it does not run in parallel with other tests.
func TestIdleTenantsCostLittle(t *testing.T) {
	const many = 200
	f := newFixture(t, false)
	names := make([]string, many)
	for i := range names {
		names[i] = fmt.Sprintf("t%d", i)
	}
	handled := make(chan string, many)
	f.workerFor(t, actives(names...).list, time.Second, bodies(handled, nil, message.Concurrency(50)))
	for i, tenant := range names {
		f.publishTask(t, tenant, fmt.Sprint(i))
	}
	for range names {
		<-handled
	}
	f.handled(t, many)
	eventually(t, "there is one goroutine for each tenant", func() bool {
		var stacks strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
			t.Fatal(err)
		}
		return strings.Count(stacks.String(), "message.(*Worker).serve(") == many &&
			strings.Count(stacks.String(), "message.(*Worker).handle(") == 0
	})
}
