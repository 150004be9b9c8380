package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"plinth/internal/errs"
)

// intake is the body of a request. It reserves the memory for a message before it reads the message: for all of it where its
// length is known, which envelopes tell, else as it grows.
type intake struct {
	io.ReadCloser
	ctx        context.Context
	call       *call
	owner      string
	enveloped  bool // each message has a prefix of five bytes: flags, and its length
	compressed bool // what was read last is gzip
	err        error

	// Of a body without envelopes.
	read, covered int64 // bytes that were read, and for which there is memory

	// Of envelopes.
	prefix    [prefixBytes]byte
	announces bool        // a header says how messages are compressed
	messages  int         // that began
	have      int         // bytes of the prefix
	left      int64       // bytes of the message that are still to be read
	late      *time.Timer // ends a stream whose message is incomplete for longer than limit; nil for a unary call
	limit     time.Duration

	mu    sync.Mutex
	held  int64 // bytes of memory
	turn  bool  // it has a place among those that are decoded
	ended bool
}

const prefixBytes = 5

// firstStep is how many bytes of a body of unknown length are reserved first.
const firstStep = 4 << 10

func newIntake(ctx context.Context, c *call) *intake {
	h := c.request.Header
	b := &intake{ReadCloser: c.body, ctx: ctx, call: c, owner: c.owner()}
	kind := h.Get("Content-Type")
	b.enveloped = c.target.rpc && (strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/connect+"))
	encoding := h.Get("Content-Encoding")
	for _, name := range []string{"Grpc-Encoding", "Connect-Content-Encoding"} {
		b.announces = b.announces || h.Get(name) != "" && h.Get(name) != "identity"
	}
	b.compressed = encoding != "" && encoding != "identity"
	return b
}

// cost returns how many bytes of memory a message of n bytes takes.
func (b *intake) cost(n int64) int64 {
	if b.compressed {
		n = max(n, min(n*inflation, MaxMessageBytes))
	}
	return decoding * min(n, MaxMessageBytes)
}

func (b *intake) Read(p []byte) (n int, err error) {
	b.endTurn() // Who reads on has decoded what came before.
	switch {
	case b.err != nil:
		return 0, b.err
	case !b.enveloped:
		return b.readPlain(p)
	case b.left == 0:
		return b.readPrefix(p)
	}
	n, err = b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		return n, b.complete(int64(binary.BigEndian.Uint32(b.prefix[1:]))) // What comes after the message is the next read's.
	}
	if err != nil {
		return n, b.fail(unreadable(b.ctx, err))
	}
	return n, nil
}

// readPlain reads a message that has no prefix. What is reserved doubles as the buffer does.
func (b *intake) readPlain(p []byte) (n int, err error) {
	if b.read >= b.covered {
		more := max(firstStep, b.covered)
		if err := b.reserve(b.cost(b.covered+more) - b.cost(b.covered)); err != nil {
			return 0, b.fail(err)
		}
		b.covered += more
	}
	n, err = b.ReadCloser.Read(p[:min(int64(len(p)), b.covered-b.read)])
	b.read += int64(n)
	switch {
	case b.read > MaxMessageBytes: // Connect would read all of the rest, to name the size.
		return n, b.fail(errTooLarge)
	case err != nil && err != io.EOF:
		return n, b.fail(unreadable(b.ctx, err))
	case err == io.EOF:
		if b.err = b.complete(b.read); b.err == nil {
			b.err = io.EOF
		}
		return n, b.err
	}
	return n, nil
}

// readPrefix reads bytes of a prefix. With the last one, it reserves the memory for the message.
func (b *intake) readPrefix(p []byte) (n int, err error) {
	n, err = b.ReadCloser.Read(p[:min(len(p), prefixBytes-b.have)])
	if n > 0 && b.have == 0 && b.late != nil {
		b.late.Reset(b.limit)
	}
	copy(b.prefix[b.have:], p[:n])
	if b.have += n; b.have < prefixBytes {
		switch {
		case err == nil:
			return n, nil
		case err != io.EOF || b.have > 0:
			return n, b.fail(unreadable(b.ctx, err))
		case b.messages == 0 && !b.call.target.streams:
			return 0, b.fail(errNoMessage)
		}
		return 0, io.EOF
	}
	b.have, b.messages = 0, b.messages+1
	if err := b.announced(); err != nil {
		return n - 1, b.fail(err) // Connect does not look at a prefix that is incomplete.
	}
	if b.left == 0 {
		return n, b.complete(0)
	}
	return n, nil
}

// announced decides by its prefix whether a message is read, and reserves the memory for it.
func (b *intake) announced() error {
	const compressed = 1
	flags := b.prefix[0]
	b.left = int64(binary.BigEndian.Uint32(b.prefix[1:]))
	b.compressed = flags&compressed != 0
	switch {
	case b.messages > 1 && !b.call.target.streams:
		return errMessages
	case flags&^compressed != 0:
		return errFlags
	case b.compressed && !b.announces:
		return errNotAnnounced
	case b.left > MaxMessageBytes:
		return errTooLarge
	}
	return b.reserve(b.cost(b.left))
}

// complete notes that all of a message of n bytes was read, which its reader decodes next. One that may be large waits for its turn.
func (b *intake) complete(n int64) error {
	b.inTime()
	if err := b.decode(n); err != nil {
		return b.fail(err)
	}
	return nil
}

// decode waits for the turn of a message of n bytes.
func (b *intake) decode(n int64) error {
	if b.call.memory == nil || b.cost(n) <= b.call.memory.Small {
		return nil
	}
	if err := b.call.memory.decode(b.ctx, b.owner); err != nil {
		return err
	}
	b.mu.Lock()
	b.turn = true
	ended := b.ended
	b.mu.Unlock()
	if ended {
		b.endTurn()
	}
	return nil
}

// inTime stops the timer of a message that is complete.
func (b *intake) inTime() {
	if b.late != nil {
		b.late.Stop()
	}
}

// endTurn notes that what was read is decoded.
func (b *intake) endTurn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.turn {
		b.turn = false
		b.call.memory.decoding.Release(b.owner, 1)
	}
}

// fail returns an error in the form in which Connect passes it on. It is that of every read from now on.
func (b *intake) fail(err error) error {
	b.call.leaveRest()
	if b.enveloped {
		err = framed(err)
	}
	var wire *connect.Error
	if b.call.target.streams && errors.As(err, &wire) {
		b.err = wire
		return wire
	}
	b.call.answered = true
	if b.call.target.streams { // The outcome is that of the handler.
		b.err = connect.NewError(codes[errs.KindOf(err)], err)
	} else {
		b.err = b.call.outcome(b.ctx, nil, err)
	}
	return b.err
}

func (b *intake) reserve(bytes int64) error {
	if bytes <= 0 || b.call.memory == nil {
		return nil
	}
	if err := b.call.memory.acquire(b.ctx, b.owner, bytes); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		b.call.memory.Release(b.owner, bytes)
		return errs.New(errs.Canceled, "the call has ended")
	}
	b.held += bytes
	return nil
}

// decoded ends the turn of a message, and gives back what a compressed one was thought to take, and does not.
func (b *intake) decoded(message any) {
	b.endTurn()
	if m, ok := message.(proto.Message); ok && b.compressed {
		b.keep(decoding * int64(proto.Size(m)))
	}
}

// keep gives back what is held beyond bytes.
func (b *intake) keep(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held > bytes {
		b.call.memory.Release(b.owner, b.held-bytes)
		b.held = bytes
	}
}

// end gives back everything.
func (b *intake) end() {
	b.inTime()
	b.endTurn()
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.keep(0)
}
