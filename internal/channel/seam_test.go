package channel_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/channel"
	"plinth/internal/kv/kvtest"
)

// While two servers are there, as in a failover, any one answer may be that of the one that does not have the latest messages, whichever
// of the commands of a stream that is behind it is for. The stream has the message, or is told of a gap.
func TestOneAnswerIsOfAnotherServer(t *testing.T) {
	t.Parallel()
	for kind, sub := range map[string]channel.Subscription{
		"name":    {Channels: names(t, "orders")},
		"pattern": {Patterns: patterns(t, "#")},
	} {
		for nth := range int64(6) {
			t.Run(kind+" "+strconv.FormatInt(nth, 10), func(t *testing.T) {
				t.Parallel()
				right, wrong, sub := kvtest.New(t, nil), kvtest.New(t, nil), sub
				ctx := newTenant(t)
				scripts, _ := server{url: wrong.URL}.open(t) // It has the other server know the scripts.
				subscribe(t, ctx, scripts, channel.Subscription{Channels: names(t, "c"), Patterns: patterns(t, "#")})
				other, _ := server{url: right.URL}.open(t)
				sub.After = publish(t, ctx, other, "orders", "1")
				publish(t, ctx, other, "orders", "2")
				var left atomic.Int64 // commands until the one that goes astray
				left.Store(1 << 40)
				options, err := goredis.ParseURL(right.URL)
				if err != nil {
					t.Fatal(err)
				}
				options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					return &astray{Conn: conn, to: func(p []byte) net.Conn {
						if asks(p) && left.Add(-1) == -1 {
							return dial(t, wrong)
						}
						return conn
					}}, err
				}
				client := goredis.NewClient(options)
				t.Cleanup(func() { _ = client.Close() })
				s := channel.New(channel.Config{Redis: client, Limits: limits, Log: zap.NewNop()})
				run(t, s)
				left.Store(nth)
				l := open(t, ctx, s, sub)
				for e := l.next(); e.Gap == nil && (e.Message == nil || string(e.Message.Payload) != "2"); e = l.next() {
					if !e.Subscribed.IsZero() {
						go func() {
							for left.Load() >= 0 && ctx.Err() == nil { // It may be done without that many commands.
								time.Sleep(time.Millisecond)
							}
							_, _ = other.Publish(ctx, channel.Publication{Channel: name(t, "orders"), Payload: []byte("3")})
						}()
					}
					if e.Message != nil {
						t.Fatalf("%s comes, and nothing before it", show(e))
					}
				}
			})
		}
	}
}

// asks reports whether a write is a question about channels.
func asks(p []byte) bool {
	p = bytes.ToLower(p)
	return bytes.Contains(p, []byte("\r\nevalsha\r\n")) || bytes.Contains(p, []byte("range"))
}

// dial returns a connection that takes commands.
func dial(t *testing.T, redis *kvtest.Server) net.Conn {
	conn, err := net.Dial("tcp", redis.Addr)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "AUTH "+kvtest.Password+"\r\n")
	if line, _, readErr := bufio.NewReader(conn).ReadLine(); err != nil || readErr != nil || string(line) != "+OK" {
		t.Errorf("%s %v %v", line, err, readErr)
	}
	return conn
}

// astray is a connection of which single writes go elsewhere, and are answered from there.
type astray struct {
	net.Conn
	to   func(p []byte) net.Conn
	from atomic.Pointer[net.Conn]
}

func (c *astray) Write(p []byte) (int, error) {
	conn := c.to(p)
	c.from.Store(&conn)
	return conn.Write(p)
}

func (c *astray) Read(p []byte) (int, error) {
	if from := c.from.Load(); from != nil {
		return (*from).Read(p)
	}
	return c.Conn.Read(p)
}

// Channels that a pattern matches begin where the stream does, also where one that is named is resumed from before.
func TestPatternBesideOneThatIsResumed(t *testing.T) {
	t.Parallel()
	s, _ := server{url: kvtest.New(t, nil).URL}.open(t)
	ctx := newTenant(t)
	before := publish(t, ctx, s, "orders", "1")
	publish(t, ctx, s, "x.y", "2")
	after := publish(t, ctx, s, "orders", "3")
	publish(t, ctx, s, "x.y", "4")
	l, _ := subscribe(t, ctx, s, channel.Subscription{
		Channels: names(t, "orders"), Patterns: patterns(t, "x.#"), After: after, AfterOf: map[string]channel.ID{"orders": before},
	})
	l.messages("3", "4")
	l.quiet(ctx, s, "orders")
}

// A stream whose place is ahead of all messages, since the clock was when Redis lost them, is told so, and has all that there is.
func TestPlaceThatIsAhead(t *testing.T) {
	t.Parallel()
	for kind, sub := range map[string]channel.Subscription{
		"name":    {Channels: names(t, "orders")},
		"pattern": {Patterns: patterns(t, "#")},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, _ := server{url: kvtest.New(t, nil).URL}.open(t)
			ctx := newTenant(t)
			ahead := uuid.MustParse(publish(t, ctx, s, "orders", "1").String())
			ahead[2]++     // by some hours
			ahead[10] ^= 1 // another epoch
			var err error
			if sub.After, err = channel.ParseID("id", ahead.String()); err != nil {
				t.Fatal(err)
			}
			l, _ := subscribe(t, ctx, s, sub)
			l.gap(channel.RedisLost)
			l.messages("1")
			l.quiet(ctx, s, "orders")
		})
	}
}

// What is lost between two questions of a stream that is behind is a gap from its place on.
func TestFlushWhileReading(t *testing.T) {
	t.Parallel()
	for kind, sub := range map[string]channel.Subscription{
		"name":    {Channels: names(t, "orders")},
		"pattern": {Patterns: patterns(t, "#")},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			redis := kvtest.New(t, nil)
			ctx := newTenant(t)
			other, _ := server{url: redis.URL}.open(t)
			sub.After = publish(t, ctx, other, "orders", "1")
			publish(t, ctx, other, "orders", "2")
			var once sync.Once
			s := beforeWrites(t, redis, func(p []byte) {
				if bytes.Contains(p, []byte(":channel:orders")) {
					once.Do(func() { redis.Do(t, "FLUSHALL") })
				}
			})
			l, _ := subscribe(t, ctx, s, sub)
			if g := l.gap(channel.RedisLost); g.After.Compare(sub.After) != 0 {
				t.Errorf("the gap begins after %v, not %v", g.After, sub.After)
			}
		})
	}
}

// A stream that is behind has a gap for what was published while the question was on its way with which the next epoch begins.
func TestLostWhileAQuestionIsOnItsWay(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	ctx := newTenant(t)
	other, _ := server{url: redis.URL}.open(t)
	var lost channel.ID
	var once sync.Once
	s := beforeWrites(t, redis, func(p []byte) {
		if bytes.Contains(p, []byte(tenantOf(ctx)+"}:channel-head")) {
			once.Do(func() {
				lost = publish(t, ctx, other, "orders", "2")
				redis.Do(t, "FLUSHALL")
			})
		}
	})
	sub := channel.Subscription{Channels: names(t, "orders"), Quiet: true}
	ahead, _ := subscribe(t, ctx, other, sub)
	subscribed, goOn := make(chan struct{}), make(chan struct{})
	behind := make(chan channel.Event, 100)
	go func() {
		_ = other.Subscribe(ctx, sub, nil, func(e channel.Event) error {
			if !e.Subscribed.IsZero() {
				close(subscribed)
				<-goOn
			}
			behind <- e
			return nil
		})
	}()
	<-subscribed
	publish(t, ctx, s, "orders", "3")
	for e := ahead.next(); e.Message == nil || string(e.Message.Payload) != "3"; e = ahead.next() {
	}
	close(goOn)
	for e := range behind {
		if e.Gap != nil && e.Gap.After.Compare(lost) < 0 && e.Gap.Before.Compare(lost) > 0 {
			return
		}
		if e.Message != nil {
			t.Fatalf("%s comes, and no gap for %v before it", show(e), lost)
		}
	}
}

// beforeWrites returns a service that is a process of its own, and has a function called before it sends anything to Redis.
func beforeWrites(t *testing.T, redis *kvtest.Server, before func(p []byte)) *channel.Service {
	t.Helper()
	options, err := goredis.ParseURL(redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return beforeWrite{conn, before}, err
	}
	client := goredis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	s := channel.New(channel.Config{Redis: client, Limits: limits, Log: zap.NewNop()})
	run(t, s)
	return s
}

// beforeWrite is a connection that has a function called before it is written to.
type beforeWrite struct {
	net.Conn
	before func(p []byte)
}

func (c beforeWrite) Write(p []byte) (int, error) {
	c.before(p)
	return c.Conn.Write(p)
}
