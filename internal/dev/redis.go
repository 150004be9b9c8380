package dev

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// redisTick is how often time passes in the Redis in memory: a key may end that much early, never late.
const redisTick = 20 * time.Millisecond

// redis is a Redis in memory. What it holds is gone when it is closed.
type redis struct {
	server *miniredis.Miniredis
	stop   context.CancelFunc
}

func startRedis() (*redis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start Redis in memory: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &redis{server: server, stop: stop}
	go r.passTime(ctx)
	return r, nil
}

// passTime lets keys expire. ClockTTL would be exact, but walks all keys at every command.
func (r *redis) passTime(ctx context.Context) {
	tick := time.NewTicker(redisTick)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := time.Now()
			r.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (r *redis) url() string { return "redis://" + r.server.Addr() + "/0" }

func (r *redis) close() {
	r.stop()
	r.server.Close()
}
