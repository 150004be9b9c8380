package channel_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/channel"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
)

// A process whose connection is cut goes on with what was published meanwhile, without a gap.
func TestCut(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	r := server{url: redis.URL}
	ctx := newTenant(t)
	one, _ := r.open(t)
	two, _ := r.open(t)
	l, _ := subscribe(t, ctx, one, channel.Subscription{Channels: names(t, "c"), Quiet: true})
	subscribe(t, ctx, two, channel.Subscription{Channels: names(t, "c")})
	published := 0
	for range 6 { // The connections of both processes in turn.
		cutOne(t, redis)
		for want := published; want < published+10; {
			publish(t, ctx, two, "c", strconv.Itoa(want))
			e := l.next()
			for e.Message == nil && e.Gap == nil && e.Subscribed.IsZero() {
				e = l.next()
			}
			if e.Message == nil || string(e.Message.Payload) != strconv.Itoa(want) {
				t.Fatalf("got %s, want message %d", show(e), want)
			}
			want++
		}
		published += 10
		eventually(t, "both listen again", func() bool { return listening(t, redis) == 2 })
		for range 2 { // Both were asked, and are noted.
			if _, err := one.GetChannel(ctx, name(t, "c")); err != nil {
				t.Fatal(err)
			}
			if _, err := two.GetChannel(ctx, name(t, "c")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// listening returns how many connections listen.
func listening(t testing.TB, redis *kvtest.Server) int {
	t.Helper()
	client, err := kv.Open(redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	list, err := client.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(list, "id=")
}

// cutOne cuts the connection that listens of the process that connected first of all that are connected.
func cutOne(t testing.TB, redis *kvtest.Server) {
	t.Helper()
	client, err := kv.Open(redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	list, err := client.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(list, "id="), " ")
	if err := client.Do(t.Context(), "CLIENT", "KILL", "ID", id).Err(); err != nil {
		t.Fatalf("%q: %v", list, err)
	}
}

// runs returns what starts services, each with a way to stop it.
func runs(t *testing.T, r server) func() (s *channel.Service, stop func()) {
	return func() (*channel.Service, func()) {
		client, err := kv.Open(r.url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		s := channel.New(channel.Config{Redis: client, Limits: limits, Log: zap.NewNop()})
		return s, run(t, s)
	}
}

// Redis is killed and comes back without its data. Streams stay open, are told, and go on behind a gap. Publish is unavailable
// meanwhile.
func TestRestart(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	s, _ := server{url: redis.URL}.open(t)
	ctx := newTenant(t)
	l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c")})
	id := publish(t, ctx, s, "c", "before")
	l.messages("before")
	redis.Kill()
	if e := l.next(); !e.Interrupted || e.ID.Compare(id) != 0 {
		t.Fatalf("got %s at %v", show(e), e.ID)
	}
	p := channel.Publication{Channel: name(t, "c")}
	if _, err := s.Publish(ctx, p); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Publish: %v", err)
	}
	if _, err := s.GetChannel(ctx, name(t, "c")); !errs.Is(err, errs.Unavailable) {
		t.Errorf("GetChannel: %v", err)
	}
	late := open(t, ctx, s, channel.Subscription{Channels: names(t, "c"), After: id})
	if e := late.next(); !e.Interrupted {
		t.Fatalf("a stream that opens while Redis is away: %s", show(e))
	}
	redis.Restart(t)
	if g := l.gap(channel.RedisLost); g.After.Compare(id) != 0 || g.Before.Compare(id) <= 0 || g.Channel.String() != "" {
		t.Errorf("%+v", g)
	}
	if e := l.next(); e.Interrupted || e.Message != nil || e.Gap != nil {
		t.Errorf("when it is back: %s", show(e))
	}
	l.quiet(ctx, s, "c")
	if e := late.next(); e.Subscribed.IsZero() {
		t.Errorf("got %s", show(e))
	}
	late.gap(channel.RedisLost)
	late.messages("mark")
}

// Redis comes back with data from before the last messages, which clients have had. Who comes with an older id is told, though nothing
// in Redis shows that anything is missing.
func TestLostTail(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	r := server{url: redis.URL}
	s, _ := r.open(t)
	ctx := newTenant(t)
	ids := publishMany(t, ctx, s, "c", 3)
	redis.Do(t, "SAVE")
	lost := publish(t, ctx, s, "c", "lost")
	redis.Kill()
	redis.Restart(t)
	other, _ := r.open(t)
	l, _ := subscribe(t, ctx, other, channel.Subscription{Channels: names(t, "c"), After: ids[1]})
	if g := l.gap(channel.RedisLost); g.After != ids[1] || g.Before.Compare(lost) <= 0 {
		t.Errorf("%+v does not have %v", g, lost)
	}
	l.messages("2")
	l.quiet(ctx, s, "c")
}

// FLUSHALL is told of, also where nothing is published after it.
func TestFlush(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	r := server{url: redis.URL}
	ctx := newTenant(t)
	one, _ := r.open(t)
	two, _ := r.open(t)
	l, _ := subscribe(t, ctx, one, channel.Subscription{Channels: names(t, "c")})
	id := publish(t, ctx, two, "c", "1")
	l.messages("1")
	redis.Do(t, "FLUSHALL")
	l.gap(channel.RedisLost)
	redis.Do(t, "FLUSHALL")
	publish(t, ctx, two, "c", "2") // At once.
	l.gap(channel.RedisLost)
	l.messages("2")
	l, _ = subscribe(t, ctx, two, channel.Subscription{Patterns: patterns(t, "#"), After: id})
	l.gap(channel.RedisLost)
	l.messages("2")
}

// As long as one process is there, others come and go without gaps. If all were away, nobody knows what Redis lost.
func TestProcesses(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		one, _ := r.open(t)
		stopOne := runs(t, r)
		l, _ := subscribe(t, ctx, one, channel.Subscription{Channels: names(t, "c")})
		id := publish(t, ctx, one, "c", "1")
		l.messages("1")
		two, stop := stopOne()
		publish(t, ctx, two, "c", "2")
		l.messages("2")
		stop()
		publish(t, ctx, one, "c", "3")
		l.messages("3")
		three, stop := stopOne()
		resumed, _ := subscribe(t, ctx, three, channel.Subscription{Channels: names(t, "c"), After: id})
		resumed.messages("2", "3")
		stop()
	})
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		r := server{url: kvtest.New(t, nil).URL}
		start := runs(t, r)
		ctx := newTenant(t)
		s, stop := start()
		id := publish(t, ctx, s, "c", "1")
		publish(t, ctx, s, "c", "2")
		stop()
		s, stop = start()
		defer stop()
		l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c"), After: id})
		l.gap(channel.RedisLost)
		l.messages("2")
	})
}

// A server that answers nothing any more is noticed.
func TestSilence(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	r := server{url: redis.URL}
	ctx := newTenant(t)
	s, _ := r.open(t, func(l *channel.Limits) { l.ReplyTimeout = 250 * time.Millisecond })
	l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c")})
	redis.Pause(t)
	if e := l.next(); !e.Interrupted {
		t.Errorf("got %s", show(e))
	}
	began := time.Now()
	if _, err := s.Publish(ctx, channel.Publication{Channel: name(t, "c")}); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("Publish took %v", took)
	}
	redis.Resume(t)
	for e := l.next(); e.Interrupted || e.Gap != nil; e = l.next() {
	}
	l.quiet(ctx, s, "c")
}

// A stream ends when it is told to finish, with when to come back, and goes on elsewhere.
func TestFinish(t *testing.T) {
	t.Parallel()
	r := server{url: kvtest.New(t, nil).URL}
	s, _ := r.open(t)
	ctx := newTenant(t)
	finishing, ended := make(chan struct{}), make(chan error, 1)
	opened := make(chan struct{}, 10)
	go func() {
		ended <- s.Subscribe(ctx, channel.Subscription{Channels: names(t, "c")}, finishing, func(channel.Event) error { opened <- struct{}{}; return nil })
	}()
	<-opened
	close(finishing)
	var e *errs.Error
	if err := <-ended; !errs.Is(err, errs.Unavailable) || !errors.As(err, &e) || e.RetryAfter < time.Second || e.RetryAfter > 5*time.Second {
		t.Errorf("%v", err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Subscribe(canceled, channel.Subscription{Channels: names(t, "c")}, nil, func(channel.Event) error { return nil }); !errs.Is(err, errs.Canceled) {
		t.Errorf("%v", err)
	}
}

// Two services on one server with databases of their own have nothing of each other's, though pub/sub has no databases.
func TestDatabases(t *testing.T) {
	t.Parallel()
	url := kvtest.New(t, nil).URL
	one, _ := server{url: url + "/0"}.open(t)
	two, _ := server{url: url + "/1"}.open(t)
	ctx := newTenant(t)
	l, _ := subscribe(t, ctx, one, channel.Subscription{Patterns: patterns(t, "#")})
	other, _ := subscribe(t, ctx, two, channel.Subscription{Patterns: patterns(t, "#")})
	publish(t, ctx, two, "c", "of two")
	l.quiet(ctx, one, "c")
	other.messages("of two")
	other.quiet(ctx, two, "c")
}

// A witness has one connection in all its life: the library, which connects again by itself, would take it to another server.
func TestWitnessIsNeverReused(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	s, _ := server{url: redis.URL}.open(t)
	ctx := newTenant(t)
	subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c")})
	monitor, err := net.Dial("tcp", redis.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = monitor.Close() }()
	_ = monitor.SetDeadline(time.Now().Add(patience))
	seen := bufio.NewScanner(monitor)
	if _, err := io.WriteString(monitor, "AUTH "+kvtest.Password+"\r\nMONITOR\r\n"); err != nil || !seen.Scan() || !seen.Scan() || seen.Text() != "+OK" {
		t.Fatalf("%v, %q", err, seen.Text())
	}
	for range 3 {
		cutOne(t, redis)
		publish(t, ctx, s, "c", "x")
		eventually(t, "it listens again", func() bool { return listening(t, redis) == 1 })
	}
	publish(t, ctx, s, "c", "the end")
	witnesses := map[string]int{}
	for ended := false; !ended && seen.Scan(); {
		line := seen.Text()
		if _, witness, ok := strings.Cut(line, `"subscribe" "plinth:0:channels:witness:`); ok {
			if witnesses[witness]++; witnesses[witness] > 1 {
				t.Errorf("%s is subscribed to once more", witness)
			}
		}
		ended = strings.Contains(line, "the end")
	}
	if len(witnesses) != 3 {
		t.Errorf("%d witnesses in 3 connections", len(witnesses))
	}
}
