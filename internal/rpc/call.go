package rpc

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

type callKey struct{}

// call is one request on its way through the stack: the fields of its log line, and the writer of its reply. It is a
// ResponseWriter with Flush of its own, because Connect asks for http.Flusher by type assertion.
type call struct {
	http.ResponseWriter
	request   *http.Request
	path      string // as the client sent it: REST transcoding writes its own into the request
	method    string
	start     time.Time
	id        string
	trace     string          // its id
	procedure string          // set once the call reaches an RPC
	code      connect.Code    // 0 is ok
	err       error           // with its cause, for the log
	principal *auth.Principal // who calls, for the log; nil where nobody was asked
	answered  bool            // the reply is an error in the caller's protocol already
	finishing context.Context // of a stream: ends when it is to finish
	partFault bool            // a part of the call failed by the server's fault
	failure   []byte          // the body of an error reply, held back for shapeError

	mu     sync.Mutex // guards what the deadline's goroutine and the handler's share
	status int        // 0 until the header is written
	cut    bool       // reading was cut off
	over   bool
}

func newCall(w http.ResponseWriter, r *http.Request) *call {
	c := &call{
		ResponseWriter: w, request: r, path: r.URL.Path, method: r.Method, start: time.Now(),
		id: requestID(r.Header),
	}
	w.Header()["X-Request-Id"] = []string{c.id}
	return c
}

// callFrom returns the call in the context of a handler. An RPC that is mounted without Handler gets a new one.
func callFrom(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// RequestID returns the id of the request that ctx belongs to, empty outside of one.
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
		// net/http takes the cut for a client that went away, and cancels whatever comes over the connection next.
		c.Header().Set("Connection", "close")
	}
	if c.isREST() {
		c.Header().Del("Accept-Encoding") // Meant for the RPC behind the transcoding.
	}
	if status >= http.StatusBadRequest {
		c.failure = []byte{} // written by shapeError
		return
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *call) isREST() bool { return strings.HasPrefix(c.path, "/api/") }

func (c *call) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if c.failure != nil {
		c.failure = append(c.failure, p...)
		return len(p), nil
	}
	return c.ResponseWriter.Write(p)
}

func (c *call) Flush() {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if c.failure == nil {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// limitTime sets how long a call may take: a unary one has a deadline, a stream a moment to finish at. It also ends connections
// that are too old.
func (s *Stack) limitTime(next link) link {
	return func(ctx context.Context, c *call) {
		c.endAged()
		defer c.limitReply(s.Timeout)
		var stop func()
		if s.methods[c.path].streams {
			stop = s.stream(c)
		} else {
			ctx, stop = c.deadline(ctx, s.Timeout)
		}
		defer stop()
		next(ctx, c)
	}
}

// deadline bounds the call: the handler by its context, and what a slow client holds by the deadlines of the connection.
// Timeouts of the whole server would cut streams.
func (c *call) deadline(ctx context.Context, timeout time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	// context.AfterFunc would do the same with three times the memory.
	timer := time.AfterFunc(timeout, func() {
		<-ctx.Done()
		c.cutOff(timeout)
	})
	return ctx, func() {
		if !timer.Stop() { // It runs, or has: it must not touch what the connection does next.
			c.mu.Lock()
			c.over = true
			c.mu.Unlock()
		}
		cancel()
	}
}

// limitReply bounds how long a client may take over the last of the reply, which is sent once the handler has returned.
func (c *call) limitReply(timeout time.Duration) {
	_ = http.NewResponseController(c.ResponseWriter).SetWriteDeadline(time.Now().Add(timeout))
}

// cutOff ends the wait for a body that does not come, and that for a client which does not read the reply after as long
// again: the reply may only begin now.
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

// recovered panics again where the connection is to be aborted: because the handler asked for it, or because its reply has begun,
// and cutting it off is the only way to say that it is not whole.
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

// outcome turns the panic of an RPC into an error, and any error into the one that the client sees.
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
	c.code = wire.Code()
	if after := retryAfter(c.err); after > 0 && c.ResponseWriter != nil {
		c.Header()["Retry-After"] = []string{strconv.FormatInt(wholeSeconds(after), 10)}
	}
	return wire
}

// whyGivenUp adds what a driver may hide: that the call was over.
func whyGivenUp(ctx context.Context, err error) error {
	if ctx.Err() != nil && errs.Is(err, errs.Internal) {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// PartError returns the error of one part of a call, such as an entry of a batch, as clients see it. A fault of the server goes
// to the call's log line. Only the goroutine of the call may call it.
func PartError(ctx context.Context, err error) (code, message string) {
	c := callFrom(ctx)
	err = whyGivenUp(ctx, err)
	wire := wireError(err, c.id)
	if isServerFault(wire.Code()) && !c.partFault {
		c.partFault, c.err = true, err // The first is enough.
	}
	return wire.Code().String(), wire.Message()
}

func panicError(p any) error { return fmt.Errorf("panic: %v\n%s", p, debug.Stack()) }
