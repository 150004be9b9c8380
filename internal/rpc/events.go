package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	"plinth/internal/errs"
)

// A stream of events has a comment this often while nothing is sent, so that nobody on the way takes it for dead; and its
// client must read within the other time.
const (
	heartbeat  = 15 * time.Second
	readWithin = 30 * time.Second
)

// A client comes back between these times after its stream has ended, a time that is random for each stream: those of a server that
// stops do not all come at once.
const (
	returnAfter  = time.Second
	returnBefore = 5 * time.Second
)

// heldMost is the most bytes of events that wait to be sent together.
const heldMost = 32 << 10

// events is a stream of responses that is sent as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
// each message is an event whose data is its JSON. An error before the first event is a reply like that of any other call; one
// afterwards is a last event of the type "error" with the same body.
type events struct {
	connect.StreamingHandlerConn
	ctx      context.Context
	call     *call
	received bool
	header   http.Header

	mu     sync.Mutex // guards what follows, and the writer
	began  bool
	held   *bytes.Buffer // events that are sent together with the next one; nil is none
	failed error         // why nothing more can be written
	until  time.Time     // when a write that waits for the client fails
	silent *time.Timer
}

func newEvents(ctx context.Context, c *call, conn connect.StreamingHandlerConn) *events {
	e := &events{StreamingHandlerConn: conn, ctx: ctx, call: c, header: http.Header{}}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.silent = time.AfterFunc(heartbeat, e.beat)
	return e
}

// Receive receives the only request.
func (e *events) Receive(message any) error {
	if e.received {
		return io.EOF
	}
	e.received = true
	return e.call.fill(e.ctx, message)
}

func (e *events) ResponseHeader() http.Header { return e.header }

// Send sends an event; without a message it only begins the reply.
func (e *events) Send(message any) error {
	if message == nil {
		return e.write(nil)
	}
	next := e.call.event
	e.call.event = Event{}
	if next.Data == nil {
		m, err := protoOf(message)
		if err != nil {
			return err
		}
		if next.Data, err = protojson.Marshal(m); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	event := e.held
	if e.held = nil; event == nil {
		event = bodies.Get().(*bytes.Buffer)
	}
	if next.ID != "" {
		event.WriteString("id: ")
		event.WriteString(oneLine(next.ID))
		event.WriteString("\n")
	}
	event.WriteString("data: ")
	event.Write(next.Data)
	event.WriteString("\n\n")
	if next.More && e.failed == nil && event.Len() < heldMost {
		e.held = event
		return nil
	}
	defer release(event)
	return e.writeLocked(event.Bytes())
}

// release gives a buffer back.
func release(buffer *bytes.Buffer) {
	if buffer.Cap() <= maxPooled {
		buffer.Reset()
		bodies.Put(buffer)
	}
}

// flush sends the events that wait.
func (e *events) flush() {
	if e.held != nil {
		_ = e.writeLocked(e.held.Bytes())
		release(e.held)
		e.held = nil
	}
}

// beat sends a comment.
func (e *events) beat() { _ = e.write([]byte(":\n\n")) }

func (e *events) write(event []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flush()
	return e.writeLocked(event)
}

func (e *events) writeLocked(event []byte) error {
	if e.failed != nil {
		return e.failed
	}
	if until := time.Now().Add(readWithin); until.Sub(e.until) > time.Second { // Setting it costs more than the event does.
		e.until = until
		_ = http.NewResponseController(e.call.ResponseWriter).SetWriteDeadline(until)
	}
	if !e.began {
		e.began = true
		h := e.call.Header()
		maps.Copy(h, e.header)
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no") // It tells nginx to pass events on at once.
		e.call.WriteHeader(http.StatusOK)
		if e.call.request.Method == http.MethodHead { // Nothing that is written would ever fail.
			e.failed = errs.New(errs.Canceled, "a HEAD gets no events")
			return e.failed
		}
		retry := (returnAfter + rand.N(returnBefore-returnAfter)).Milliseconds()
		event = append([]byte("retry: "+strconv.FormatInt(retry, 10)+"\n\n"), event...)
	}
	if _, err := e.call.Write(event); err != nil {
		e.failed = errs.Wrap(err, errs.Canceled, "the client takes no more events")
		return e.failed
	}
	e.call.Flush()
	e.silent.Reset(heartbeat)
	return nil
}

// end ends the reply, with the error of the stream if that is not nil. Afterwards nothing is written.
func (e *events) end(wire error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flush()
	switch {
	case wire == nil:
		_ = e.writeLocked(nil)
	case !e.began:
		e.began = true
		e.call.answer(wire)
	default:
		data, _ := json.Marshal(bodyOf(wire)) // These are strings and JSON that was just encoded, so it cannot fail.
		_ = e.writeLocked([]byte("event: error\ndata: " + string(data) + "\n\n"))
	}
	e.failed = io.ErrClosedPipe
	e.silent.Stop()
}

// Event says how the next message of a stream is sent, where that is one of Server-Sent Events.
type Event struct {
	ID   string // without line breaks; a client that comes back sends the last one that it has
	Data []byte // the JSON of the message, where it is known already; it must not be changed
	More bool   // another message follows at once, and both may be sent together
}

// NextEvent sets how the next message that the handler of ctx sends is sent, where the stream is one of Server-Sent Events.
func NextEvent(ctx context.Context, e Event) { callFrom(ctx).event = e }

// IsEvents reports whether the stream of ctx is one of Server-Sent Events. Such a stream has a comment while nothing is sent, so its
// handler need not show that it is open.
func IsEvents(ctx context.Context) bool {
	c := callFrom(ctx)
	return c.transcodes && c.target.streams
}

// oneLine returns an id without what would end its line.
func oneLine(id string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == 0 {
			return -1
		}
		return r
	}, id)
}

// LastEventID returns the id of the last event that the client of ctx received before, or "".
func LastEventID(ctx context.Context) string {
	if r := callFrom(ctx).request; r != nil {
		return r.Header.Get("Last-Event-ID")
	}
	return ""
}
