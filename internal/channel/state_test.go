package channel_test

import (
	"maps"
	"testing"

	"plinth/internal/channel"
)

// What a process holds names its server, and for each tenant how many streams are open of how many channels.
func TestProcessState(t *testing.T) {
	t.Parallel()
	onEveryRedis(t, func(t *testing.T, r server) {
		s, _ := r.open(t)
		if state := s.ProcessState().(channel.ProcessState); len(state.Tenants) != 0 {
			t.Errorf("before there is a stream: %+v", state)
		}
		ctx := newTenant(t)
		first, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "a", "b")})
		subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "a"), Patterns: patterns(t, "c.*")})
		publish(t, ctx, s, "a", "x")
		first.messages("x")
		state := s.ProcessState().(channel.ProcessState)
		if len(state.Servers) == 0 || state.Servers[0].Address == "" || !state.Servers[0].Connected || len(state.Tenants) != 1 {
			t.Fatalf("%+v", state)
		}
		of := state.Tenants[0]
		if of.Tenant != tenantOf(ctx) || !of.Live || of.Streams != 2 || of.Channels != 2 || of.Patterns != 1 || of.Kept != 1 ||
			!maps.Equal(of.Most, map[string]int{"a": 2, "b": 1}) {
			t.Errorf("%+v", of)
		}
		first.cancel()
		eventually(t, "the stream that ended is not told", func() bool {
			of := s.ProcessState().(channel.ProcessState).Tenants[0]
			return of.Streams == 1 && maps.Equal(of.Most, map[string]int{"a": 1})
		})
	})
}
