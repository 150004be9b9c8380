package rpc

import (
	"context"
	"errors"
	"math"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"plinth/internal/errs"
	"plinth/internal/share"
)

const (
	// decoding is how many bytes of memory a byte of a message takes: the buffer that it is read into, which doubles as it
	// grows, and the decoded message.
	decoding = 3
	// inflation is how many bytes a byte of gzip holds at most.
	inflation = 1032
	// smallBody is what counts as small: such a body finds room beside the large ones of its owner.
	smallBody = 64 << 10
	// memoryWait is how long a body waits for room, and memoryWaiters how many of one owner do. HTTP/2 buffers up to 1 MiB of
	// each meanwhile.
	memoryWait    = time.Second
	memoryWaiters = 64
)

var errNoMemory = errs.New(errs.ResourceExhausted, "too much of what this tenant or address sends is being read at the moment; try again").
	Because("TOO_MUCH_IN_HAND").After(time.Second)

// memory is what bodies may take. Of the large ones in it, half as many are decoded at a time as there are processors: four megabytes of
// gzip or JSON keep one busy for many milliseconds, and the small calls of others find the other half free.
type memory struct {
	*share.Pool
	decoding *share.Pool
	capacity int64
	taken    atomic.Int64 // by large bodies, since memory was given back to the system
	calm     *time.Timer  // runs out when no large body has come for a while
}

// calmAfter is for how long no large body comes before memory is given back.
const calmAfter = 5 * time.Second

// newMemory returns the memory that bodies may take. It returns nil, which is no limit, for 0.
func newMemory(bytes int64) *memory {
	if bytes <= 0 {
		return nil
	}
	m := &memory{capacity: bytes, Pool: share.New(share.Config{
		Capacity: func() int64 { return bytes }, Times: 1, Small: decoding * smallBody, Waiters: memoryWaiters,
	})}
	m.decoding = share.New(share.Config{
		Capacity: func() int64 { return int64(max(1, runtime.GOMAXPROCS(0)/2)) }, Times: shareTimes, Small: 1, Waiters: memoryWaiters,
	})
	m.calm = time.AfterFunc(calmAfter, m.giveBack)
	m.calm.Stop()
	return m
}

// acquire takes bytes for an owner. It blocks for up to memoryWait. Errors: ResourceExhausted; those of ctx.
func (m *memory) acquire(ctx context.Context, owner string, bytes int64) error {
	if bytes > m.Small {
		m.taken.Add(bytes)
		m.calm.Reset(calmAfter)
	}
	return inHand(m.Acquire(ctx, owner, bytes, memoryWait))
}

// decode waits for the turn of an owner to decode a large body, for up to memoryWait. Errors: ResourceExhausted; those of ctx.
func (m *memory) decode(ctx context.Context, owner string) error {
	return inHand(m.decoding.Acquire(ctx, owner, 1, memoryWait))
}

func inHand(err error) error {
	if errors.Is(err, share.ErrFull) {
		return errNoMemory
	}
	return err
}

// giveBack gives memory back to the system once much of it was used and is not any more. By itself, the garbage collector does so
// minutes later, since a process with the port lets its heap grow (GCPercent).
func (m *memory) giveBack() {
	switch {
	case m.Used() > m.capacity/4:
		m.calm.Reset(calmAfter)
	case m.taken.Swap(0) > m.capacity/4:
		runtime.GC() // Pools of buffers keep theirs for one collection.
		debug.FreeOSMemory()
	}
}

// holdBody reserves the memory that the body of a call takes before any of it is read, and gives it back when the call ends.
// Bodies of plain routes are left to their handlers, which do not hold them whole.
func (s *Stack) holdBody(next link) link {
	return func(ctx context.Context, c *call) {
		c.memory = s.memory
		if c.target.rpc && c.method == http.MethodGet && c.request.URL.RawQuery != "" {
			s.holdQuery(ctx, c, next)
			return
		}
		b := newIntake(ctx, c)
		if c.request.ContentLength == 0 && !b.enveloped || !c.target.rpc && c.target.binding == nil {
			next(ctx, c)
			return
		}
		defer b.end()
		if n := c.request.ContentLength; n > 0 && !b.enveloped && !c.target.streams {
			if err := b.reserve(b.cost(n)); err != nil {
				c.leaveRest()
				s.refuse(ctx, c, err)
				return
			}
			b.covered = math.MaxInt64
		}
		c.intake, c.body = b, b
		next(ctx, c)
	}
}

// holdQuery is holdBody for a Connect call by GET, whose message is in the query.
func (s *Stack) holdQuery(ctx context.Context, c *call, next link) {
	query := c.request.URL.RawQuery
	n := int64(len(query))
	b := &intake{ReadCloser: c.body, ctx: ctx, call: c, owner: c.owner(), compressed: strings.Contains(query, "compression=")}
	defer b.end()
	if err := b.reserve(b.cost(n)); err != nil {
		s.refuse(ctx, c, err)
		return
	}
	if err := b.decode(n); err != nil {
		s.refuse(ctx, c, err)
		return
	}
	c.intake = b
	next(ctx, c)
}

// stopReading has the connection not wait for the rest of the body.
func (c *call) stopReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.ResponseWriter == nil {
		return
	}
	c.cut = true
	_ = http.NewResponseController(c.ResponseWriter).SetReadDeadline(time.Now())
}
