package channel_test

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/channel"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	kv.LogTo(zap.NewNop())
	if err := pgtest.SetParallel("12"); err != nil { // They wait for servers to find each other, and hardly use PostgreSQL.
		panic(err)
	}
	os.Exit(pgtest.Main(m))
}

// patience bounds every wait; no healthy machine needs it.
const patience = 30 * time.Second

// limits are those of the defaults, but for a Redis that is slow because the machine is.
var limits = channel.Limits{HistorySize: 100, HistoryTTL: 5 * time.Minute, HistoryBytes: 1 << 20, MaxPayloadSize: 64 << 10, ReplyTimeout: 5 * time.Second}

// server is a Redis of some kind.
type server struct {
	url     string
	forward func(time.Duration) // lets time pass where it does not by itself; nil where it does
}

// onEveryRedis runs a test on every kind of Redis: in memory, one server, and a Cluster.
func onEveryRedis(t *testing.T, test func(t *testing.T, r server)) {
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		memory := miniredis.RunT(t)
		test(t, server{"redis://" + memory.Addr(), memory.FastForward})
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		url := os.Getenv("REDIS_URL")
		if url == "" {
			url = kvtest.New(t, nil).URL
		}
		test(t, server{url, nil})
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		test(t, server{kvtest.NewCluster(t, nil).URL, nil})
	})
}

// open returns a client, and a service that is a process of its own.
func (r server) open(t testing.TB, change ...func(*channel.Limits)) (*channel.Service, redis.UniversalClient) {
	t.Helper()
	client, err := kv.Open(r.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	l := limits
	for _, change := range change {
		change(&l)
	}
	s := channel.New(channel.Config{Redis: client, Limits: l, Log: zap.NewNop()})
	run(t, s)
	return s, client
}

// run runs a service until the test ends, or what it returns is called.
func run(t testing.TB, s *channel.Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(ctx)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	eventually(t, "the service runs", func() bool {
		_, err := s.GetChannel(newTenant(t), name(t, "c"))
		return err == nil
	})
	return stop
}

// eventually waits until something is.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// newTenant returns a context of a tenant that nothing else acts for.
func newTenant(t testing.TB) context.Context {
	t.Helper()
	return auth.AsService(t.Context(), "t-"+uuid.NewString()[:13])
}

func name(t testing.TB, text string) channel.Name {
	t.Helper()
	n, err := channel.ParseName(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func names(t testing.TB, texts ...string) (all []channel.Name) {
	t.Helper()
	for _, text := range texts {
		all = append(all, name(t, text))
	}
	return all
}

func patterns(t testing.TB, texts ...string) (all []channel.Pattern) {
	t.Helper()
	for _, text := range texts {
		p, err := channel.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// publish publishes a text, and tries again while Redis is away. It returns the id.
func publish(t testing.TB, ctx context.Context, s *channel.Service, to, text string) channel.ID {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		id, err := s.Publish(ctx, channel.Publication{Channel: name(t, to), Payload: []byte(text), Text: true})
		if err == nil {
			return id
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// publishMany publishes the numbers from 0 to n-1.
func publishMany(t testing.TB, ctx context.Context, s *channel.Service, to string, n int) (ids []channel.ID) {
	t.Helper()
	for i := range n {
		ids = append(ids, publish(t, ctx, s, to, strconv.Itoa(i)))
	}
	return ids
}

// listener is a stream.
type listener struct {
	t      testing.TB
	events chan channel.Event
	cancel context.CancelFunc
	ended  chan error
}

// subscribe opens a stream, and waits until it is open.
func subscribe(t testing.TB, ctx context.Context, s *channel.Service, sub channel.Subscription) (l *listener, subscribed channel.Event) {
	t.Helper()
	l = open(t, ctx, s, sub)
	e := l.next()
	if e.Subscribed.IsZero() {
		t.Fatalf("the first event is %+v", e)
	}
	return l, e
}

// open opens a stream.
func open(t testing.TB, ctx context.Context, s *channel.Service, sub channel.Subscription) *listener {
	ctx, cancel := context.WithCancel(ctx)
	l := &listener{t: t, events: make(chan channel.Event, 100_000), cancel: cancel, ended: make(chan error, 1)}
	go func() {
		l.ended <- s.Subscribe(ctx, sub, nil, func(e channel.Event) error { l.events <- e; return nil })
	}()
	t.Cleanup(cancel)
	return l
}

// next returns the next event.
func (l *listener) next() channel.Event {
	l.t.Helper()
	select {
	case e := <-l.events:
		return e
	case err := <-l.ended:
		l.t.Fatalf("the stream ended: %v", err)
	case <-time.After(patience):
		l.t.Fatal("no event came in time")
	}
	return channel.Event{}
}

// messages checks that the next events are messages with these texts.
func (l *listener) messages(texts ...string) {
	l.t.Helper()
	for _, text := range texts {
		if e := l.next(); e.Message == nil || string(e.Message.Payload) != text {
			l.t.Fatalf("got %s, want the message %s", show(e), text)
		}
	}
}

// gap checks that the next event is a gap.
func (l *listener) gap(reason channel.Reason) *channel.Gap {
	l.t.Helper()
	e := l.next()
	if e.Gap == nil || e.Gap.Reason != reason {
		l.t.Fatalf("got %s, want a gap: %s", show(e), reason)
	}
	return e.Gap
}

// quiet checks that no event came before that of a message which is published now.
func (l *listener) quiet(ctx context.Context, s *channel.Service, to string) {
	l.t.Helper()
	publish(l.t, ctx, s, to, "mark")
	l.messages("mark")
}

func show(e channel.Event) string {
	switch {
	case e.Message != nil:
		return "the message " + string(e.Message.Payload) + " of " + e.Message.Channel.String()
	case e.Gap != nil:
		return "a gap in " + e.Gap.Channel.String() + " of " + strconv.FormatInt(e.Gap.Missed, 10) + ": " + string(e.Gap.Reason)
	case !e.Subscribed.IsZero():
		return "subscribed"
	}
	return "a heartbeat, interrupted " + strconv.FormatBool(e.Interrupted)
}

func tenantOf(ctx context.Context) string { return auth.TenantOf(ctx) }
