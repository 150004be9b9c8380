package channel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/channel"
	"plinth/internal/kv"
	"plinth/internal/kv/kvtest"
)

const (
	stormRate    = 500 * time.Microsecond // between two messages
	stormReaders = 12
	stormPause   = 300 * time.Millisecond // between two faults
)

// faults returns how many faults a storm has.
func faults() int {
	if os.Getenv("CI") == "true" {
		return 50
	}
	return 6
}

// storm is publishers and readers in several processes, which are killed at random.
type storm struct {
	t    *testing.T
	ctx  context.Context
	url  string
	over atomic.Bool

	mu    sync.Mutex
	alive []*process
	acked []channel.ID
}

type process struct {
	*channel.Service
	stop func()
	ctx  context.Context // ends with it
}

func newStorm(t *testing.T, url string) *storm {
	s := &storm{t: t, ctx: newTenant(t), url: url}
	for range 3 {
		s.start()
	}
	return s
}

// start starts a process.
func (s *storm) start() {
	client, err := kv.Open(s.url)
	if err != nil {
		s.t.Error(err)
		return
	}
	service := channel.New(channel.Config{Redis: client, Limits: limits, Log: zap.NewNop()})
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = service.Run(ctx)
		_ = client.Close()
	}()
	p := &process{service, func() { cancel(); <-ended }, ctx}
	s.t.Cleanup(p.stop)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive = append(s.alive, p)
}

// killOne ends a process in the middle of what it does, and starts another one.
func (s *storm) killOne() {
	s.mu.Lock()
	i := rand.IntN(len(s.alive))
	p := s.alive[i]
	s.alive = slices.Delete(s.alive, i, i+1)
	s.mu.Unlock()
	p.stop()
	s.start()
}

func (s *storm) any() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive[rand.IntN(len(s.alive))]
}

// publish publishes until the storm is over, and keeps the ids that were answered.
func (s *storm) publish() {
	tick := time.NewTicker(stormRate)
	defer tick.Stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	places := make(chan struct{}, 64)
	for n := 0; !s.over.Load(); n++ {
		<-tick.C
		places <- struct{}{}
		calls.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(s.ctx, time.Second)
			defer cancel()
			id, err := s.any().Publish(ctx, channel.Publication{Channel: name(s.t, "c"), Payload: []byte(strconv.Itoa(n))})
			if err == nil {
				s.mu.Lock()
				s.acked = append(s.acked, id)
				s.mu.Unlock()
			}
		})
	}
}

// heard is what a reader knows: each message or gap, in the order in which it came.
type heard struct {
	start    channel.ID
	messages map[channel.ID]bool
	texts    map[string]bool
	gaps     []channel.Gap
	last     channel.ID
	fault    error
}

var errReaderCut = errors.New("cut")

// read reads until what was published at the end has come. Its stream is cut now and then, and goes on in any process.
func (s *storm) read(until func() channel.ID) *heard {
	h := &heard{messages: map[channel.ID]bool{}, texts: map[string]bool{}}
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); {
		p, left := s.any(), 1+rand.IntN(2_000)
		ctx, cancel := context.WithCancel(p.ctx)
		if end := until(); end.IsZero() {
			stop := time.AfterFunc(time.Second, cancel)
			defer stop.Stop()
		}
		err := p.Subscribe(ctx, channel.Subscription{Channels: names(s.t, "c"), After: h.last, Quiet: true}, nil, func(e channel.Event) error {
			h.note(e)
			if end := until(); !end.IsZero() && h.last.Compare(end) >= 0 {
				return errReaderDone
			}
			if left--; left == 0 {
				return errReaderCut
			}
			return h.fault
		})
		cancel()
		if errors.Is(err, errReaderDone) || h.fault != nil {
			return h
		}
	}
	h.fault = fmt.Errorf("the last message did not come; the reader is at %v", h.last)
	return h
}

var errReaderDone = errors.New("done")

func (h *heard) note(e channel.Event) {
	if h.start.IsZero() && !e.Subscribed.IsZero() {
		h.start = e.ID
	}
	switch {
	case e.Message != nil:
		if h.messages[e.Message.ID] {
			h.fault = fmt.Errorf("the message %v came twice", e.Message.ID)
		}
		if h.last.Compare(e.ID) >= 0 {
			h.fault = fmt.Errorf("the message %v came after %v", e.ID, h.last)
		}
		if text := string(e.Message.Payload); h.texts[text] {
			h.fault = fmt.Errorf("%s came as two messages", text)
		}
		h.messages[e.Message.ID], h.texts[string(e.Message.Payload)] = true, true
	case e.Gap != nil:
		h.gaps = append(h.gaps, *e.Gap)
	}
	if !e.ID.IsZero() {
		h.last = e.ID
	}
}

// check checks that a reader has each message, or a gap that has its place.
func (h *heard) check(t *testing.T, acked []channel.ID) (missing int) {
	if h.fault != nil {
		t.Error(h.fault)
		return 0
	}
	for _, id := range acked {
		if id.Compare(h.start) <= 0 || h.messages[id] {
			continue
		}
		missing++
		if !slices.ContainsFunc(h.gaps, func(g channel.Gap) bool { return g.After.Compare(id) < 0 && id.Compare(g.Before) < 0 }) {
			t.Errorf("a reader has neither the message %v nor a gap for it", id)
			return missing
		}
	}
	return missing
}

// rage runs the storm with faults.
func (s *storm) rage(fault func(n int)) {
	var readers sync.WaitGroup
	var end atomic.Pointer[channel.ID]
	all := make([]*heard, stormReaders)
	for i := range all {
		readers.Go(func() {
			all[i] = s.read(func() channel.ID {
				if id := end.Load(); id != nil {
					return *id
				}
				return channel.ID{}
			})
		})
	}
	publishing := make(chan struct{})
	go func() {
		defer close(publishing)
		s.publish()
	}()
	for n := range faults() {
		<-time.After(stormPause)
		fault(n)
	}
	s.over.Store(true)
	<-publishing
	last := publish(s.t, s.ctx, s.any().Service, "c", "the end")
	end.Store(&last)
	readers.Wait()
	gaps, missing, messages := 0, 0, 0
	for _, h := range all {
		missing += h.check(s.t, s.acked)
		gaps += len(h.gaps)
		messages += len(h.messages)
	}
	s.t.Logf("%d messages were published; %d readers had %d, and %d gaps for %d", len(s.acked), stormReaders, messages, gaps, missing)
	if len(s.acked) < 100 || messages < len(s.acked) {
		s.t.Errorf("%d messages were published, and %d arrived", len(s.acked), messages)
	}
}

// TestStorm has one Redis killed, restarted with old data and without any, flushed and cut off, and processes killed.
func TestStorm(t *testing.T) {
	t.Parallel()
	redis := kvtest.New(t, nil)
	s := newStorm(t, redis.URL)
	s.rage(func(n int) {
		switch n % 6 {
		case 0:
			redis.Kill()
			redis.Restart(t)
		case 1:
			redis.Do(t, "CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
		case 2:
			redis.Do(t, "SAVE") // The next restart has what is there now.
			s.killOne()
		case 3:
			redis.Do(t, "FLUSHALL")
		case 4:
			redis.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		case 5:
			redis.Pause(t)
			<-time.After(stormPause)
			redis.Resume(t)
		}
	})
}

// TestSentinelFailover kills the primary, whose replica takes its place, with processes that come and go.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	sentinels := kvtest.NewSentinels(t, nil)
	s := newStorm(t, sentinels.URL)
	s.rage(func(n int) {
		if n != 1 {
			s.killOne()
			return
		}
		sentinels.Primary.Kill()
		s.publishes("the replica is the primary")
	})
}

// TestClusterFailover kills the node of the tenant, whose replica takes its place.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := kvtest.NewCluster(t, nil)
	s := newStorm(t, cluster.URL)
	client, err := kv.Open(cluster.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	owner, err := client.(*redis.ClusterClient).MasterForKey(t.Context(), kv.Key(tenantOf(s.ctx)))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(cluster.Nodes, func(n *kvtest.Server) bool { return n.Addr == owner.Options().Addr })
	if i < 0 {
		t.Fatalf("no node is %s", owner.Options().Addr)
	}
	cluster.AddReplica(t, cluster.Nodes[i])
	s.rage(func(n int) {
		if n != 1 {
			s.killOne()
			return
		}
		cluster.Nodes[i].Kill()
		s.publishes("the replica has the slots")
	})
}

// publishes waits until messages can be published.
func (s *storm) publishes(what string) {
	eventually(s.t, what, func() bool {
		_, err := s.any().Publish(s.ctx, channel.Publication{Channel: name(s.t, "other")})
		return err == nil
	})
}
