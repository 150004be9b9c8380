package lock

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
)

const (
	// beatEvery is how often a process says that it is alive, and looks whether it is the turn of one that waits in it. lapse is how
	// long its word counts. A waiter whose process was killed delays others by lapse and beatEvery at most.
	beatEvery = time.Second
	lapse     = 4 * time.Second
	beatLimit = 2 * time.Second

	// A waiter looks by itself every lookEvery, and keeps its row for rowLife each time.
	lookEvery = 10 * time.Second
	rowLife   = time.Minute
)

var errFinishing = errs.New(errs.Unavailable, "this server stops; call again, with the same lease_id to keep the place")

// place is what somebody waits for.
type place struct {
	tenant string
	name   Name
	lease  uuid.UUID
}

// payload is the notification that it is the turn of p.
func (p place) payload() string { return p.tenant + " " + p.lease.String() + " " + p.name.name }

func parsePlace(payload string) (p place) {
	tenant, rest, _ := strings.Cut(payload, " ")
	lease, name, _ := strings.Cut(rest, " ")
	p.tenant, p.name = tenant, Name{name}
	p.lease, _ = uuid.Parse(lease)
	return p
}

// waiters are the calls of this process that wait, by what they wait for.
type waiters struct {
	mu     sync.Mutex
	places map[place]*waiter
}

type waiter struct {
	calls int // several, if the client called again
	wake  chan struct{}
}

func (w *waiters) add(p place) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.places == nil {
		w.places = map[place]*waiter{}
	}
	if w.places[p] == nil {
		w.places[p] = &waiter{wake: make(chan struct{}, 1)}
	}
	w.places[p].calls++
	return w.places[p]
}

// remove reports whether no other call waits for the same. One that does is woken, to find out what became of it.
func (w *waiters) remove(p place) (last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.places[p]
	if of.calls--; of.calls > 0 {
		loop.Signal(of.wake)
		return false
	}
	delete(w.places, p)
	return true
}

// signal wakes who waits for p, and reports whether that is in this process.
func (w *waiters) signal(p place) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.places[p]
	if of != nil {
		loop.Signal(of.wake)
	}
	return of != nil
}

// locks returns the locks that calls wait for.
func (w *waiters) locks() (tenants, names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[place]bool{}
	for p := range w.places {
		if p.lease = uuid.Nil; !seen[p] {
			seen[p] = true
			tenants, names = append(tenants, p.tenant), append(names, p.name.name)
		}
	}
	return tenants, names
}

func (w *waiters) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.places)
}

// wake tells a waiter, wherever it waits, that it is its turn. Zero is nobody.
func (s *Service) wake(tenant string, name Name, lease uuid.UUID) {
	if p := (place{tenant, name, lease}); lease != uuid.Nil && !s.waiters.signal(p) {
		s.notifier.Notify(channel, p.payload())
	}
}

// wait takes a lock when it is the caller's turn. It looks twice at once, since whoever released the lock in between has not seen
// the caller; from then on it is woken, or looks by itself.
func (s *Service) wait(ctx context.Context, r Request) (Lease, error) {
	p := place{auth.TenantOf(ctx), r.Name, r.LeaseID}
	w := s.waiters.add(p)
	taken, stays := false, false
	defer func() {
		if s.waiters.remove(p) && !taken && !stays {
			s.leave(ctx, p)
		}
	}()
	deadline := time.Now().Add(r.Wait)
	over := time.NewTimer(r.Wait)
	defer over.Stop()
	backoff := loop.Backoff{Min: waitMin, Max: waitMax}
	for looks := 1; ; looks++ {
		lease, held, err := s.take(ctx, r, min(max(time.Until(deadline), time.Millisecond), rowLife))
		pause := lookEvery
		switch {
		case err == nil && held == nil:
			taken = true
			return lease, nil
		case err == nil:
			backoff.Reset()
			if err = errHeld(r.Name, *held); looks == 1 {
				continue
			}
		case errs.Is(err, errs.Unavailable):
			pause = backoff.Next()
		default:
			return Lease{}, err
		}
		again := time.NewTimer(pause)
		select {
		case <-w.wake:
		case <-again.C:
		case <-over.C:
			return Lease{}, err
		case <-ctx.Done():
			return Lease{}, context.Cause(ctx)
		case <-r.Finishing:
			stays = true
			return Lease{}, errFinishing
		}
		again.Stop()
	}
}

// leave gives up the place of a call that waits no longer, and wakes the next one if the lock is free.
func (s *Service) leave(ctx context.Context, p place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpLimit)
	defer cancel()
	if following, err := deleteWaiter(ctx, s.system, p, s.process); err == nil { // Else its row lapses.
		s.wake(p.tenant, p.name, following)
	}
}

// beat says that this process is alive and wakes those whose turn it is, until ctx ends. It asks nothing while nobody waits.
func (s *Service) beat(ctx context.Context) {
	for {
		timer := time.NewTimer(beatEvery)
		select {
		case <-timer.C:
		case <-s.heard:
		case <-ctx.Done():
			return
		}
		timer.Stop()
		if tenants, names := s.waiters.locks(); len(names) > 0 {
			s.lookForTurns(ctx, tenants, names)
		}
	}
}

// lookForTurns wakes those of this process that are the first to wait for a lock: now, or when the lease of it ends.
func (s *Service) lookForTurns(ctx context.Context, tenants, names []string) {
	asking, cancel := context.WithTimeout(ctx, beatLimit)
	defer cancel()
	turns, err := updateAlive(asking, s.system, s.process, tenants, names)
	if err != nil {
		return // Others log that the database is away.
	}
	for _, t := range turns {
		switch {
		case t.left > beatEvery:
		case t.left > 0:
			time.AfterFunc(t.left, func() { s.waiters.signal(t.place) })
		case !s.waiters.signal(t.place):
			s.leave(ctx, t.place) // Its call could not do that.
		}
	}
}
