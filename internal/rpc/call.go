package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/observe"
)

// call is one request on its way through the stack: the fields of its log line, and the writer of its reply. It is a
// ResponseWriter with its own Flush, because Connect looks for http.Flusher by type assertion.
type call struct {
	http.ResponseWriter
	request    *http.Request
	source     source        // the body of the request
	body       io.ReadCloser // what reads it; that of net/http's own Request is not replaced, which it looks at afterwards
	path       string        // decoded
	method     string
	start      time.Time
	id         string
	trace      string          // trace id
	target     *target         // what it is for
	vars       []string        // of the path, decoded
	allow      []string        // the methods that the path has, where it does not have this one
	admitted   bool            // the caller may call the target
	procedure  string          // set once the call reaches an RPC
	transcodes bool            // the RPC was called by its REST route
	replyType  string          // content type of the reply of a REST route
	event      Event           // how the next event is sent
	token      string          // the credential in the URL; empty is none
	pace       *pace           // of a plain route that streams; of an RPC while it sends bytes (Pace)
	end        func(error)     // of a plain route that streams
	stream     *stream         // of an RPC that streams
	code       connect.Code    // 0 is ok
	err        error           // with its cause, for the log
	principal  *auth.Principal // for the log; nil if the call was not authenticated
	answered   bool            // the reply already is an error in the caller's protocol
	finishing  context.Context // for a stream: ends when the stream is to finish
	planned    bool            // the call has ended because it was to finish
	partFault  bool            // a part of the call failed because of the server
	failure    []byte          // the body of an error reply, held back for shapeError
	intake     *intake         // the body of the request; nil if it takes no memory
	memory     *memory         // for bodies; nil is no limit
	spent      observe.Spent   // in backends
	span       *observe.Span   // nil without tracing

	mu     sync.Mutex // guards the fields that the deadline's goroutine and the handler's share
	status int        // 0 until the header is written
	cut    bool       // reading was cut off
	over   bool
}

func newCall(w http.ResponseWriter, r *http.Request) *call {
	c := &call{
		ResponseWriter: w, request: r, source: source{ReadCloser: r.Body, request: r}, path: r.URL.Path, method: r.Method, start: time.Now(),
		id: requestID(r.Header), target: unknown,
	}
	c.body = &c.source
	w.Header()["X-Request-Id"] = []string{c.id}
	return c
}

// withContext returns a copy of the request for a handler.
func (c *call) withContext(ctx context.Context) *http.Request {
	r := c.request.WithContext(ctx)
	r.Body = c.body
	return r
}

// callFrom returns the call in the context of a handler. For an RPC that is mounted without Handler it returns a new one.
func callFrom(ctx context.Context) *call {
	if c, ok := ctx.Value(observe.CallKey{}).(*call); ok {
		return c
	}
	return &call{target: unknown}
}

// Spent returns the time that the call spends in backends, for package observe.
func (c *call) Spent() *observe.Spent { return &c.spent }

// RequestID returns the id of the request that ctx belongs to, or "" if there is none.
func RequestID(ctx context.Context) string { return callFrom(ctx).id }

func (c *call) WriteHeader(status int) {
	c.mu.Lock()
	if c.status != 0 {
		c.mu.Unlock()
		return
	}
	c.status = status
	c.mu.Unlock()
	if c.cut && c.request.ProtoMajor == 1 {
		// net/http takes the read deadline for a client that went away, and cancels the next request on the connection.
		c.Header().Set("Connection", "close")
	}
	if status >= http.StatusBadRequest {
		c.failure = []byte{} // written by shapeError
		return
	}
	c.ResponseWriter.WriteHeader(status)
}

// isREST reports whether the path is one of REST routes, known or not, or of a plain route among them.
func (c *call) isREST() bool { return strings.HasPrefix(c.path, "/api/") }

func (c *call) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if c.failure != nil {
		c.failure = append(c.failure, p...)
		return len(p), nil
	}
	if c.pace != nil {
		return c.pace.write(p)
	}
	return c.ResponseWriter.Write(p)
}

func (c *call) Flush() {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	switch {
	case c.failure != nil:
	case c.pace != nil:
		c.pace.flush()
	default:
		_ = http.NewResponseController(c.ResponseWriter).Flush()
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// limitTime limits how long a call may take: a unary call has a deadline, a stream has a time at which it is to finish. It
// also ends connections that are too old.
func (s *Stack) limitTime(next link) link {
	return func(ctx context.Context, c *call) {
		c.endAged()
		defer c.limitReply(s.Timeout)
		m := c.target
		if m.streams || m.maxWait > 0 {
			defer s.stream(c)()
		}
		if !m.streams {
			var stop func()
			ctx, stop = c.deadline(ctx, s.Timeout+m.maxWait)
			defer stop()
		}
		next(ctx, c)
	}
}

// deadline limits the duration of a call: the handler's by its context, and the time that a slow client may take by the
// deadlines of the connection. Timeouts for the whole server would cut off streams.
func (c *call) deadline(ctx context.Context, timeout time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	// context.AfterFunc would do the same, but uses three times the memory.
	timer := time.AfterFunc(timeout, func() {
		<-ctx.Done()
		c.cutOff(timeout)
	})
	return ctx, func() {
		if !timer.Stop() { // It is running or has run: it must not affect the next request on the connection.
			c.mu.Lock()
			c.over = true
			c.mu.Unlock()
		}
		cancel()
	}
}

// limitReply limits how long a client may take to read the rest of the reply, which is sent after the handler returns.
func (c *call) limitReply(timeout time.Duration) {
	_ = http.NewResponseController(c.ResponseWriter).SetWriteDeadline(time.Now().Add(timeout))
}

// cutOff stops waiting for a body that does not arrive. It also lets the connection wait for a client that does not read the
// reply, but only for as long again, because the reply may begin only now.
func (c *call) cutOff(timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	connection := http.NewResponseController(c.ResponseWriter)
	_ = connection.SetWriteDeadline(time.Now().Add(timeout))
	if c.status == 0 {
		c.cut = true
		_ = connection.SetReadDeadline(time.Now())
	}
}

// recoverPanics turns a panic outside of any RPC into an error reply.
func recoverPanics(next link) link {
	return func(ctx context.Context, c *call) {
		defer func() { c.recovered(recover()) }()
		next(ctx, c)
	}
}

// recovered panics again if the connection is to be aborted: because the handler asked for it, or because the reply has
// begun and aborting it is the only way to show that it is incomplete.
func (c *call) recovered(p any) {
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	c.code, c.err = connect.CodeInternal, panicError(p)
	if c.status != 0 && c.failure == nil {
		panic(http.ErrAbortHandler)
	}
	c.status, c.failure = http.StatusInternalServerError, []byte{}
}

// outcome converts the panic of an RPC to an error, and any error to the one that the client sees.
func (c *call) outcome(ctx context.Context, p any, err error) error {
	if p != nil {
		if p == http.ErrAbortHandler {
			panic(p)
		}
		err = panicError(p)
	}
	if err == nil {
		return nil
	}
	c.err = whyGivenUp(ctx, err)
	wire := wireError(c.err, c.id)
	c.code = loggedCode(wire)
	c.planned = c.code == connect.CodeUnavailable && c.finishing != nil && c.finishing.Err() != nil
	if after := retryAfter(c.err); after > 0 && c.ResponseWriter != nil {
		c.Header()["Retry-After"] = []string{strconv.FormatInt(wholeSeconds(after), 10)}
	}
	return wire
}

// whyGivenUp adds to an internal error what a driver may hide: that the call's context has ended.
func whyGivenUp(ctx context.Context, err error) error {
	if ctx.Err() != nil && errs.Is(err, errs.Internal) {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// fail replies with an error, on a path where only JSON is spoken.
func (c *call) fail(ctx context.Context, err error) {
	c.answer(c.outcome(ctx, nil, err))
	var own *statusError
	if errors.As(err, &own) {
		c.status = own.status // The reply is held back for shapeError.
	}
}

// aJSONCall is a request whose errors are JSON with the status of their code.
var aJSONCall = &http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {"application/json"}}}

// answer writes an error that has the form for clients already.
func (c *call) answer(wire error) {
	c.answered = true
	_ = connect.NewErrorWriter().Write(c, aJSONCall, wire)
}

// PartError returns the error of one part of a call, such as an entry of a batch, as clients see it. An error that is the
// server's fault goes to the call's log line. Only the goroutine of the call may call it.
func PartError(ctx context.Context, err error) (code, message string) {
	c := callFrom(ctx)
	err = whyGivenUp(ctx, err)
	wire := wireError(err, c.id)
	if isServerFault(wire.Code()) && !c.partFault {
		c.partFault, c.err = true, err // The first one is enough.
	}
	return wire.Code().String(), wire.Message()
}

func panicError(p any) error { return fmt.Errorf("panic: %v\n%s", p, debug.Stack()) }
