package kv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
)

// TestGuard has a Redis go away and come back: calls fail at once meanwhile, and nothing is asked but whether it is back.
func TestGuard(t *testing.T) {
	t.Parallel()
	server := kvtest.New(t, nil)
	g := kv.NewGuard(open(t, server.URL))
	ping := func(ctx context.Context, c redis.UniversalClient) error { return c.Ping(ctx).Err() }
	const limit = 20 * time.Second
	if err := g.Do(t.Context(), "t", limit, ping); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hang := func(ctx context.Context, _ redis.UniversalClient) error { <-ctx.Done(); return ctx.Err() }
	if err := g.Do(ctx, "t", limit, hang); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was canceled: %v", err)
	}
	if err := g.Do(t.Context(), "t", limit, ping); err != nil {
		t.Errorf("after a call that was canceled: %v", err)
	}
	if err := g.Do(t.Context(), "t", time.Millisecond, hang); !kv.Away(err) {
		t.Errorf("without a reply: %v", err)
	}
	asked := false
	err := g.Do(t.Context(), "t", limit, func(context.Context, redis.UniversalClient) error { asked = true; return nil })
	if asked || !kv.Away(err) {
		t.Errorf("right after that it is asked: %v, %v", asked, err)
	}
	for start := time.Now(); g.Do(t.Context(), "t", limit, ping) != nil; time.Sleep(time.Millisecond) {
		if time.Since(start) > limit {
			t.Fatal("that it is back is not noticed")
		}
	}
	server.Kill()
	if err := g.Do(t.Context(), "t", limit, ping); !kv.Away(err) {
		t.Errorf("when it is gone: %v", err)
	}
	refused := errors.New("x")
	if err := kv.NewGuard(nil).Do(t.Context(), "t", limit, func(context.Context, redis.UniversalClient) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("another error: %v", err)
	}
}
