package channel_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"plinth/internal/channel"
	"plinth/internal/kv"
)

// What these scripts did not write among what they keep begins a new epoch: nothing is refused, and who resumes has a gap.
func TestRubbish(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		s, client := r.open(t)
		for what, field := range map[string][]string{
			"a count":             {"counts", "c", "x"},
			"a large count":       {"counts", "c", "9223372036854775807"},
			"a place":             {"head", "at", "x"},
			"a place of no end":   {"head", "at", "inf"},
			"a place of nothing":  {"head", "at", "nan"},
			"a place of no clock": {"head", "at", "9007199254740991"},
			"a beginning":         {"head", "began", "inf"},
			"an epoch":            {"head", "epoch", "x"},
		} {
			for _, first := range []string{"Publish", "GetChannel", "Subscribe"} {
				t.Run(what+" before "+first, func(t *testing.T) { rubbish(t, s, client, field, first) })
			}
		}
	})
}

func rubbish(t *testing.T, s *channel.Service, client redis.UniversalClient, field []string, first string) {
	ctx := newTenant(t)
	a := publish(t, ctx, s, "c", "a")
	if err := client.HSet(ctx, kv.Key(tenantOf(ctx), "channel-"+field[0]), field[1], field[2]).Err(); err != nil {
		t.Fatal(err)
	}
	use := map[string]func(){
		"Publish": func() {
			if _, err := s.Publish(ctx, channel.Publication{Channel: name(t, "c"), Payload: []byte("b"), Text: true}); err != nil {
				t.Error(err)
			}
		},
		"GetChannel": func() {
			if info, err := s.GetChannel(ctx, name(t, "c")); err != nil || info.LastID.Compare(a) < 0 {
				t.Errorf("%+v %v", info, err)
			}
		},
		"Subscribe": func() {
			l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c"), After: a})
			l.cancel()
		},
	}
	use[first]()
	for _, call := range use {
		call()
	}
	l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c"), After: a})
	l.gap(channel.RedisLost)
	publish(t, ctx, s, "c", "mark")
	for texts := ""; !strings.HasSuffix(texts, "mark"); {
		e := l.next()
		if e.Message == nil {
			t.Fatalf("got %s after %q", show(e), texts)
		}
		texts += string(e.Message.Payload)
	}
}
