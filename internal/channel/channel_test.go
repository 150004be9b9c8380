package channel_test

import (
	"strconv"
	"strings"
	"testing"

	"plinth/internal/channel"
	"plinth/internal/errs"
)

// Messages come in order to streams of all processes, each with its id and that of the one before.
func TestPublishAndSubscribe(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		one, _ := r.open(t)
		two, _ := r.open(t)
		first := publish(t, ctx, one, "orders.paid", "before")
		var streams []*listener
		for _, s := range []*channel.Service{one, two} {
			for range 3 {
				l, e := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "orders.paid")})
				if e.Subscribed.Compare(first) != 0 || e.ID != e.Subscribed {
					t.Errorf("subscribed at %v, and the last message is %v", e.Subscribed, first)
				}
				streams = append(streams, l)
			}
		}
		ids := publishMany(t, ctx, one, "orders.paid", 50)
		publish(t, ctx, one, "orders", "not for them")
		for _, l := range streams {
			previous := first
			for i, id := range ids {
				e := l.next()
				m := e.Message
				if m == nil || m.ID != id || e.ID != id || string(m.Payload) != strconv.Itoa(i) || !m.Text || m.Previous != previous {
					t.Fatalf("message %d is %s, id %v, want %v after %v", i, show(e), e.ID, id, previous)
				}
				previous = id
			}
		}
		publish(t, ctx, two, "orders.paid", "last")
		for _, l := range streams {
			l.messages("last")
		}
		if info, err := two.GetChannel(ctx, name(t, "orders.paid")); err != nil || info.History != 52 || !info.Used {
			t.Errorf("%+v, %v", info, err)
		}
		if info, err := two.GetChannel(ctx, name(t, "never")); err != nil || info.Used || info.History != 0 || info.LastID.Compare(ids[49]) <= 0 {
			t.Errorf("a channel without messages: %+v, %v", info, err)
		}
	})
}

// A stream goes on after the last id that it had, in each of its channels, with one id for all of them.
func TestResume(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		one, _ := r.open(t)
		two, _ := r.open(t)
		var sub channel.Subscription
		for i := range 40 {
			sub.Channels = append(sub.Channels, name(t, "c."+strconv.Itoa(i)))
		}
		l, _ := subscribe(t, ctx, one, sub)
		publish(t, ctx, two, "c.7", "first")
		e := l.next()
		l.cancel()
		var want []string
		for i := range 200 {
			text := strconv.Itoa(i)
			publish(t, ctx, two, "c."+strconv.Itoa(i%40), text)
			want = append(want, text)
		}
		for _, s := range []*channel.Service{one, two} {
			sub.After = e.ID
			l, subscribed := subscribe(t, ctx, s, sub)
			if subscribed.ID != e.ID {
				t.Errorf("a stream that is cut right after it opened goes on after %v, want %v", subscribed.ID, e.ID)
			}
			l.messages(want...)
			l.quiet(ctx, two, "c.1")
			l.cancel()
			want = append(want, "mark")
		}
	})
}

// What the history has not any more is told, with how many there were.
func TestGapOfHistory(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		s, _ := r.open(t, func(l *channel.Limits) { l.HistorySize = 10 })
		ids := publishMany(t, ctx, s, "c", 30)
		for have, missed := range map[int]int64{0: 19, 18: 1, 19: 0, 25: 0} {
			l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c"), After: ids[have]})
			if missed > 0 {
				if g := l.gap(channel.History); g.Missed != missed || g.After != ids[have] || g.Before != ids[20] || g.Channel.String() != "c" {
					t.Errorf("after message %d: %+v", have, g)
				}
			}
			for i := max(have+1, 20); i < 30; i++ {
				l.messages(strconv.Itoa(i))
			}
			l.cancel()
		}
		// By name, for one channel of several.
		l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c", "d"), AfterOf: map[string]channel.ID{"c": ids[28]}})
		l.messages("29")
		l.quiet(ctx, s, "d")
		// A pattern has no numbers.
		l, _ = subscribe(t, ctx, s, channel.Subscription{Patterns: patterns(t, "*"), After: ids[0]})
		if g := l.gap(channel.History); g.Missed != 0 || g.Before != ids[20] {
			t.Errorf("%+v", g)
		}
	})
}

// The history is bounded by bytes, too; the last message stays however large it is.
func TestHistoryBytes(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		s, _ := r.open(t, func(l *channel.Limits) { l.HistoryBytes = 10_000 })
		start := publish(t, ctx, s, "c", "start")
		for range 20 {
			publish(t, ctx, s, "c", strings.Repeat("x", 2_990))
		}
		if info, err := s.GetChannel(ctx, name(t, "c")); err != nil || info.History != 3 {
			t.Errorf("%+v %v", info, err)
		}
		publish(t, ctx, s, "c", strings.Repeat("y", 20_000))
		l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c"), After: start})
		if g := l.gap(channel.History); g.Missed != 20 {
			t.Errorf("%+v", g)
		}
		if e := l.next(); e.Message == nil || len(e.Message.Payload) != 20_000 {
			t.Errorf("%s", show(e))
		}
	})
}

// A name and patterns that match one message get it once, in the order of publishing.
func TestPatternsOfStreams(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		s, _ := r.open(t)
		sub := channel.Subscription{Channels: names(t, "orders.eu.paid"), Patterns: patterns(t, "orders.*", "orders.#", "orders.eu.*")}
		l, e := subscribe(t, ctx, s, sub)
		var want []string
		for _, to := range []string{"orders", "orders.eu", "orders.eu.paid", "ordersx", "orders.a.b.c", "other.orders"} {
			publish(t, ctx, s, to, to)
			if strings.HasPrefix(to, "orders") && to != "ordersx" {
				want = append(want, to)
			}
		}
		l.messages(want...)
		sub.After = e.ID
		l, _ = subscribe(t, ctx, s, sub)
		l.messages(want...)
		l.quiet(ctx, s, "orders.x")
	})
}

func TestLimitsOfMessages(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		ctx := newTenant(t)
		s, _ := r.open(t, func(l *channel.Limits) { l.MaxChannels, l.MaxStreams = 3, 2 })
		l, _ := subscribe(t, ctx, s, channel.Subscription{Patterns: patterns(t, "#")})
		attributes := map[string]string{"a": "", "b": strings.Repeat("x", 1024)}
		for size, kind := range map[int]errs.Kind{0: 0, 64 << 10: 0, 64<<10 + 1: errs.InvalidArgument} {
			_, err := s.Publish(ctx, channel.Publication{Channel: name(t, "c"), Payload: make([]byte, size), Attributes: attributes})
			if errs.Is(err, errs.InvalidArgument) != (kind != 0) || kind == 0 && err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			if kind == 0 {
				m := l.next().Message
				if len(m.Payload) != size || m.Text || len(m.Attributes) != 2 || m.Attributes["b"] != attributes["b"] {
					t.Errorf("%d bytes arrive as %+v", size, m)
				}
			}
		}
		publish(t, ctx, s, "d", "")
		publish(t, ctx, s, "e", "")
		if _, err := s.Publish(ctx, channel.Publication{Channel: name(t, "f")}); !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("a channel beyond the quota: %v", err)
		}
		publish(t, ctx, s, "c", "")
		subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c")})
		if err := <-open(t, ctx, s, channel.Subscription{Channels: names(t, "c")}).ended; !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("a stream beyond the quota: %v", err)
		}
	})
}
