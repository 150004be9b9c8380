package rpc

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"plinth/internal/errs"
	"plinth/internal/rpc/rest"
)

// servePlain serves a plain route.
func (s *Stack) servePlain(ctx context.Context, c *call, handle func(http.ResponseWriter, *http.Request) error) {
	for i, name := range c.target.names {
		c.request.SetPathValue(name, c.vars[i])
	}
	err := s.runPlain(ctx, c, handle)
	switch {
	case err == nil:
	case c.status == 0:
		c.fail(ctx, err)
	default:
		_ = c.outcome(ctx, nil, err)
		panic(http.ErrAbortHandler) // That is how the client sees that the reply is incomplete.
	}
}

func (s *Stack) runPlain(ctx context.Context, c *call, handle func(http.ResponseWriter, *http.Request) error) error {
	m := c.target.method
	if err := c.checkQuery(); err != nil {
		return err
	}
	switch {
	case m.streams:
		end, err := s.openStream(c, m)
		if err != nil {
			return err
		}
		defer end()
		o := &stream{call: c, public: m.public}
		o.ctx, o.cancel = context.WithCancelCause(ctx)
		defer o.cancel(nil)
		defer s.watch(o)()
		defer c.keepPace(o.ctx)()
		c.end = o.cancel
		return o.outcome(handle(c, c.withContext(o.ctx)))
	case m.public:
		return handle(c, c.withContext(ctx))
	}
	place, err := s.load.begin(ctx, s.sharer(c))
	if err != nil {
		return err
	}
	err = handle(c, c.withContext(ctx))
	s.load.end(place, err)
	return err
}

// checkQuery returns an error for a query that does not mean one thing, as REST routes do. What is for everybody has none.
func (c *call) checkQuery() error {
	if c.target.public || c.request.URL.RawQuery == "" {
		return nil
	}
	values, err := rest.ParseQuery(c.request.URL.RawQuery)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case slices.Contains(c.target.names, name):
			return errs.New(errs.InvalidArgument, "%s: the path has it, the query must not", name)
		case len(values[name]) > 1:
			return errs.New(errs.InvalidArgument, "%.64q: the query has it more than once", name)
		case !c.target.takes(name):
			return errs.New(errs.InvalidArgument, "%.64q: there is no such parameter; allowed: %s", name, cmp.Or(strings.Join(c.target.query, ", "), "none"))
		}
	}
	return nil
}

// takes reports whether the query of a plain route may have a parameter.
func (t *target) takes(name string) bool {
	return slices.ContainsFunc(t.query, func(known string) bool {
		return name == known || strings.HasSuffix(known, ".") && strings.HasPrefix(name, known)
	})
}

// pace limits how long a read of the body and a write of the reply may wait for the client. How long the handler takes between
// them is not the client's fault.
type pace struct {
	io.ReadCloser
	ctx   context.Context
	call  *call
	stall time.Duration
}

// keepPace makes the call a stream whose bytes must keep coming. A read of the body ends when ctx does. It returns what ends that.
func (c *call) keepPace(ctx context.Context) (end func()) {
	c.pace = &pace{ReadCloser: c.body, ctx: ctx, call: c, stall: c.target.stall}
	c.body = c.pace
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_ = c.connection().SetReadDeadline(time.Now())
	})
	return func() {
		if !stop() {
			<-told // Once the handler has returned, the connection must not be touched.
		}
	}
}

// End ends a plain route that streams, of whose handler ctx is the context, or one made of it: a read of the body returns, and so does
// every later one. The call is answered with why. It may be called at any time until the handler returns.
func End(ctx context.Context, why error) {
	if c := callFrom(ctx); c.end != nil {
		c.end(why)
	}
}

func (c *call) connection() *http.ResponseController {
	return http.NewResponseController(c.ResponseWriter)
}

func (p *pace) Read(to []byte) (n int, err error) {
	connection := p.call.connection()
	_ = connection.SetReadDeadline(time.Now().Add(p.stall))
	if p.ctx.Err() != nil { // Its end may have set a deadline just before.
		return 0, context.Cause(p.ctx)
	}
	n, err = p.ReadCloser.Read(to)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.call.mu.Lock()
		p.call.cut = true
		p.call.mu.Unlock()
		// net/http cancels the context of a request whose body it cannot read, so that does not tell why.
		if cause := context.Cause(p.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return n, cause
		}
		return n, errs.Wrap(err, errs.DeadlineExceeded, "no byte of the body came for %v", p.stall)
	}
	_ = connection.SetReadDeadline(time.Time{})
	return n, err
}

// writePiece is how much of a reply is written at a time. A client that has taken that much has not stood still.
const writePiece = 32 << 10

// write writes a part of the reply. The limit is for each piece of it, so a slow client may take as long as it wants.
func (p *pace) write(data []byte) (n int, err error) {
	connection := p.call.connection()
	for more := true; more && err == nil; more = n < len(data) {
		_ = connection.SetWriteDeadline(time.Now().Add(p.stall))
		var written int
		written, err = p.call.ResponseWriter.Write(data[n:min(n+writePiece, len(data))])
		n += written
	}
	_ = connection.SetWriteDeadline(time.Time{})
	return n, err
}

// flush sends what was written and not sent.
func (p *pace) flush() {
	connection := p.call.connection()
	_ = connection.SetWriteDeadline(time.Now().Add(p.stall))
	_ = connection.Flush()
	_ = connection.SetWriteDeadline(time.Time{})
}
