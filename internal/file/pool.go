package file

import (
	"context"
	"errors"
	"io"
	"sync"
)

// All uploads of unknown length together hold poolBytes, in blocks, so that a slow one holds no more than what it sent.
const (
	poolBytes  = 64 << 20
	blockSize  = 64 << 10
	partBlocks = partSize / blockSize
	// ownTimes is how many times as much as is left free afterwards one tenant may hold, as package share has it.
	ownTimes = 3
)

// pool is the memory for parts. Whoever needs a block that is not free waits.
//
// A part that is being filled may need more blocks, and a part that is being sent gives its blocks back by itself. So that
// uploads never wait for each other in a circle, a block is given out only as long as the rest suffices for one of the parts that
// are being filled: that one can be sent, and its blocks suffice for any other.
//
// A tenant holds no more than a share. Past that, only the part of its that has come the furthest goes on, and only once none is
// being sent: so its uploads do not wait for each other in a circle, either.
type pool struct {
	mu      sync.Mutex
	total   int      // blocks
	lent    int      // of them, to parts
	sending int      // of those, to parts that are filled
	spare   [][]byte // blocks to use again
	places  map[*place]struct{}
	owners  map[string]*holding
	freed   chan struct{} // closed when blocks are given back
}

func newPool(bytes int) *pool {
	return &pool{total: bytes / blockSize, places: map[*place]struct{}{}, owners: map[string]*holding{}, freed: make(chan struct{})}
}

// holding is what a tenant has of a pool.
type holding struct{ places, lent, sending int }

// place is an upload that uses a pool. It fills one part at a time.
type place struct {
	pool  *pool
	owner string // a tenant
	of    *holding
	held  int // blocks of the part that is being filled
}

func (p *pool) join(owner string) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owners[owner] == nil {
		p.owners[owner] = &holding{}
	}
	at := &place{pool: p, owner: owner, of: p.owners[owner]}
	at.of.places++
	p.places[at] = struct{}{}
	return at
}

// forget drops what is known of an owner who has nothing.
func (at *place) forget() {
	if at.of.places == 0 && at.of.lent == 0 && at.pool.owners[at.owner] == at.of {
		delete(at.pool.owners, at.owner)
	}
}

// leave ends the use. Parts that are still being sent give their blocks back themselves.
func (at *place) leave() {
	at.pool.mu.Lock()
	defer at.pool.mu.Unlock()
	delete(at.pool.places, at)
	at.of.places--
	at.forget()
	at.pool.wake()
}

// take blocks until a block can be had.
func (at *place) take(ctx context.Context) ([]byte, error) {
	p := at.pool
	for {
		p.mu.Lock()
		if p.mayLend(at) {
			defer p.mu.Unlock()
			p.lent++
			at.of.lent++
			at.held++
			if n := len(p.spare); n > 0 {
				block := p.spare[n-1]
				p.spare = p.spare[:n-1]
				return block, nil
			}
			return make([]byte, blockSize), nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// mayLend reports whether a block can be given to a place.
func (p *pool) mayLend(to *place) bool {
	free := p.total - p.lent - 1
	if free < 0 || !p.isShare(to, free) {
		return false
	}
	rest := free + p.sending
	if partBlocks-to.held-1 <= rest {
		return true
	}
	for at := range p.places {
		if at != to && partBlocks-at.held <= rest {
			return true
		}
	}
	return false
}

// isShare reports whether a block for a place is within the share of its owner, if free are left then, or may be past it.
func (p *pool) isShare(to *place, free int) bool {
	if to.of.lent+1 <= ownTimes*free {
		return true
	}
	for at := range p.places {
		if at.of == to.of && at.held > to.held {
			return false
		}
	}
	return to.of.sending == 0
}

func (p *pool) wake() {
	close(p.freed)
	p.freed = make(chan struct{})
}

// buffer is a part in memory. It is filled, then read any number of times, then freed.
type buffer struct {
	place  *place
	blocks [][]byte
	size   int64
	full   bool
}

func (at *place) begin() *buffer { return &buffer{place: at} }

// readFrom reads a whole part, or the rest of a body.
func (b *buffer) readFrom(ctx context.Context, body io.Reader) error {
	for len(b.blocks) < partBlocks {
		block, err := b.place.take(ctx)
		if err != nil {
			return err
		}
		b.blocks = append(b.blocks, block)
		n, err := io.ReadFull(body, block)
		b.size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return b.ended(body, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ended returns nil at the end of a body, and the error of one that broke off.
func (b *buffer) ended(body io.Reader, err error) error {
	if in, ok := body.(*intake); ok && !in.end {
		return err
	}
	return nil
}

// filled says that the part is about to be sent.
func (b *buffer) filled() {
	p := b.place.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	b.full = true
	b.place.held -= len(b.blocks)
	b.place.of.sending += len(b.blocks)
	p.sending += len(b.blocks)
	p.wake()
}

// free gives the blocks back; doing it again changes nothing. The last part of all leaves nothing behind.
func (b *buffer) free() {
	p := b.place.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(b.blocks)
	if b.full {
		p.sending -= n
		b.place.of.sending -= n
	} else {
		b.place.held -= n
	}
	p.lent -= n
	b.place.of.lent -= n
	b.place.forget()
	p.spare = append(p.spare, b.blocks...)
	if p.lent == 0 {
		p.spare = nil
	}
	b.blocks = nil
	p.wake()
}

// reader returns a reader of the part, which can be read again.
func (b *buffer) reader() io.ReadSeeker { return &blockReader{b, 0} }

type blockReader struct {
	buffer *buffer
	at     int64
}

func (r *blockReader) Read(p []byte) (int, error) {
	if r.at >= r.buffer.size {
		return 0, io.EOF
	}
	block := r.buffer.blocks[r.at/blockSize]
	end := min(blockSize, r.buffer.size-r.at/blockSize*blockSize)
	n := copy(p, block[r.at%blockSize:end])
	r.at += int64(n)
	return n, nil
}

func (r *blockReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.buffer.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	r.at = offset
	return offset, nil
}
