package cache

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"plinth/internal/kv"
	"plinth/internal/loop"
)

const (
	pollMin = 5 * time.Millisecond // between two looks at what other processes load
	pollMax = 40 * time.Millisecond
)

// poller looks at the leases that flights of this process wait for, all in one question.
type poller struct {
	mu      sync.Mutex
	waiting []*awaited
	wait    loop.Backoff
	running bool
}

// awaited is a lease of another process.
type awaited struct {
	tenant, lease string // the lease's key
	holder        string // its token
	over          chan struct{}
}

// await blocks until nobody, or another one, has a lease, or Redis is away.
func (s *Service) await(tenant, lease, holder string) {
	a := &awaited{tenant, lease, holder, make(chan struct{})}
	p := &s.poller
	p.mu.Lock()
	p.waiting = append(p.waiting, a)
	p.wait.Min, p.wait.Max = pollMin, pollMax
	p.wait.Reset()
	if !p.running {
		p.running = true
		go s.poll()
	}
	p.mu.Unlock()
	<-a.over
}

// poll looks at what is waited for, until nothing is.
func (s *Service) poll() {
	p := &s.poller
	for {
		p.mu.Lock()
		delay := p.wait.Next()
		p.mu.Unlock()
		time.Sleep(delay)
		p.mu.Lock()
		looked := p.waiting
		p.waiting = nil
		p.mu.Unlock()
		parts := map[string][]*awaited{}
		for _, a := range looked {
			part := s.redis.Part(a.tenant)
			parts[part] = append(parts[part], a)
		}
		left := make(chan []*awaited)
		for _, part := range parts {
			go func() { left <- s.look(part) }()
		}
		var all []*awaited
		for range parts {
			all = append(all, <-left...)
		}
		p.mu.Lock()
		if p.waiting = append(p.waiting, all...); len(p.waiting) == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// look asks for leases that Redis has, or is away, together. It wakes whoever need not wait any longer, and returns the others.
func (s *Service) look(part []*awaited) (left []*awaited) {
	holders, err := s.holders(part)
	for i, a := range part {
		if err == nil && holders[i] == a.holder {
			left = append(left, a)
		} else {
			close(a.over)
		}
	}
	return left
}

func (s *Service) holders(part []*awaited) ([]string, error) {
	holders := make([]string, len(part)) // Empty for a lease that is not there, or whose key has something else.
	err := s.redis.Do(context.Background(), part[0].tenant, s.memoLimit, func(ctx context.Context, c redis.UniversalClient) error {
		found := make([]*redis.StringCmd, len(part))
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, a := range part {
				found[i] = p.Get(ctx, a.lease)
			}
			return nil
		})
		for i := range found {
			holders[i] = found[i].Val()
		}
		if kv.Away(err) {
			return err
		}
		return nil
	})
	return holders, err
}
