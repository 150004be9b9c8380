package share

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Config configures a Pool.
type Config struct {
	// Capacity returns how much there is. It may change between calls. It must not call the Pool.
	Capacity func() int64
	// Times is how many times as much as is left free afterwards an owner may have.
	Times int64
	// Small is what counts as a small amount. An owner who has nothing gets a small amount as long as there is one; of larger
	// ones, an owner may have only three quarters of what the rule above allows, so that its own small ones find room.
	Small int64
	// Waiters is how many callers of one owner may wait at a time.
	Waiters int
}

// Nobody is an owner who may have all.
const Nobody = ""

// ErrFull is returned if an amount did not become free in time.
var ErrFull = errors.New("share: nothing is free")

// Pool is what is shared. It is safe for concurrent use.
type Pool struct {
	Config

	mu     sync.Mutex
	used   int64
	owners map[string]*owner
	turns  list.List // of the owners with waiters, *owner; the first one is next
}

// owner is who has something or waits for it.
type owner struct {
	name  string
	used  int64
	small list.List // *waiter, likewise large
	large list.List
	turn  *list.Element // in Pool.turns, nil if nobody waits
}

type waiter struct {
	n       int64
	in      *list.List // nil once it was served
	place   *list.Element
	granted chan struct{} // closed then
}

// idleOwners is how many owners are remembered that have nothing, so that a call of each need not allocate one.
const idleOwners = 1024

// New returns a Pool.
func New(c Config) *Pool { return &Pool{Config: c, owners: map[string]*owner{}} }

// Acquire takes n for an owner. It blocks for up to wait until that much is free; a wait of 0 or less does not block. Release
// gives it back. Errors: ErrFull; those of ctx.
func (p *Pool) Acquire(ctx context.Context, name string, n int64, wait time.Duration) error {
	p.mu.Lock()
	o := p.owner(name)
	// Those who wait are not overtaken, but for small amounts.
	if ahead := o.small.Len() + o.large.Len(); (ahead == 0 || n <= p.Small && o.small.Len() == 0) && p.fits(o, n) {
		p.take(o, n)
		p.mu.Unlock()
		return nil
	} else if wait <= 0 || ahead >= p.Waiters {
		p.forget(o)
		p.mu.Unlock()
		return ErrFull
	}
	w := p.enqueue(o, n)
	p.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.granted:
		return nil
	case <-timer.C:
		return p.giveUp(o, w, ErrFull)
	case <-ctx.Done():
		return p.giveUp(o, w, ctx.Err())
	}
}

// Release gives back n of what an owner has.
func (p *Pool) Release(name string, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.owner(name)
	p.used -= n
	o.used -= n
	p.serve()
	p.forget(o)
}

// Used returns how much is in use.
func (p *Pool) Used() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Waiting returns how many callers wait.
func (p *Pool) Waiting() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for turn := p.turns.Front(); turn != nil; turn = turn.Next() {
		o := turn.Value.(*owner)
		n += o.small.Len() + o.large.Len()
	}
	return n
}

// fits reports whether an owner may have n more now.
func (p *Pool) fits(o *owner, n int64) bool {
	left := p.Capacity() - p.used - n
	switch {
	case left < 0:
		return false
	case o.name == Nobody, o.used == 0 && n <= p.Small:
		return true
	case n <= p.Small:
		return o.used+n <= p.Times*left
	default:
		return o.used+n <= p.Times*left/4*3
	}
}

func (p *Pool) take(o *owner, n int64) {
	p.used += n
	o.used += n
}

// serve grants what fits, one waiter of each owner in turn, until nothing fits.
func (p *Pool) serve() {
	for refused := 0; refused < p.turns.Len(); {
		turn := p.turns.Front()
		p.turns.MoveToBack(turn)
		if p.serveOne(turn.Value.(*owner)) {
			refused = 0
		} else {
			refused++
		}
	}
}

func (p *Pool) serveOne(o *owner) bool {
	for _, queue := range []*list.List{&o.small, &o.large} {
		if first := queue.Front(); first != nil && p.fits(o, first.Value.(*waiter).n) {
			w := first.Value.(*waiter)
			p.take(o, w.n)
			p.leave(o, w)
			close(w.granted)
			return true
		}
	}
	return false
}

func (p *Pool) enqueue(o *owner, n int64) *waiter {
	w := &waiter{n: n, in: &o.large, granted: make(chan struct{})}
	if n <= p.Small {
		w.in = &o.small
	}
	w.place = w.in.PushBack(w)
	if o.turn == nil {
		o.turn = p.turns.PushBack(o)
	}
	return w
}

// leave removes a waiter.
func (p *Pool) leave(o *owner, w *waiter) {
	w.in.Remove(w.place)
	w.in = nil
	if o.small.Len()+o.large.Len() == 0 {
		p.turns.Remove(o.turn)
		o.turn = nil
	}
}

// giveUp removes a waiter that was not served, and returns why. If it was served meanwhile, giveUp returns nil.
func (p *Pool) giveUp(o *owner, w *waiter, why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.in == nil {
		return nil
	}
	p.leave(o, w)
	p.serve() // Smaller ones may have waited behind it.
	p.forget(o)
	return why
}

func (p *Pool) owner(name string) *owner {
	o := p.owners[name]
	if o == nil {
		o = &owner{name: name}
		p.owners[name] = o
	}
	return o
}

// forget removes an owner who has nothing and waits for nothing, once there are many.
func (p *Pool) forget(o *owner) {
	if o.used == 0 && o.turn == nil && len(p.owners) > idleOwners {
		delete(p.owners, o.name)
	}
}
