package rpc

import (
	"context"
	"net/http"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/observe"
	"plinth/internal/ratelimit"
)

// Limits of one message. Four MiB is what gRPC clients take by default; below one KiB compression costs the server three
// times the CPU of the call and saves nothing on the wire.
const (
	MaxMessageBytes  = 4 << 20
	compressMinBytes = 1 << 10
)

// Config says what the stack does with calls.
type Config struct {
	Log     *zap.Logger   // gets a line for each request
	Timeout time.Duration // of a unary call
	Origins []string      // whose pages may call, see Browsers
	Public  []string      // the paths of the RPCs that everybody may call

	// Authenticate tells who calls; nil is AUTH_MODE=off, where everybody is auth.Anonymous. ActFor gives a principal the
	// tenant that an administrator names.
	Authenticate auth.Authenticator
	ActFor       func(ctx context.Context, p *auth.Principal, tenant string) (*auth.Principal, error)
	Denied       func(procedure string) // counts what was refused to who asked; nil does not

	Limits  Limits
	Limiter *ratelimit.Limiter // nil limits no rates

	Draining context.Context // ends when streams are to finish; nil never does
	MaxAge   time.Duration   // of connections and streams; 0 is no limit
}

// Stack is the one way into the service.
type Stack struct {
	Config
	methods   map[string]method
	validator protovalidate.Validator
	load      *concurrency
}

// New makes a stack.
func New(cfg Config) (*Stack, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return nil, err
	}
	return &Stack{Config: cfg, methods: methodsOf(cfg.Public), validator: validator, load: newConcurrency(cfg.Limits.Calls)}, nil
}

// Options are what every RPC handler is made with.
func (s *Stack) Options() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithInterceptors(interceptor{s}),
		connect.WithReadMaxBytes(MaxMessageBytes),
		connect.WithCompressMinBytes(compressMinBytes),
	}
}

// Handler puts the stack around everything that is mounted.
func (s *Stack) Handler(next http.Handler) http.Handler {
	next = Browsers(s.Origins, s.admit(next))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := newCall(w, r)
		defer s.finish(c)
		c.endAged()
		ctx := context.WithValue(r.Context(), callKey{}, c)
		if parent, state := traceOf(r.Header); parent != "" {
			c.trace = parent[3:35]
			ctx = observe.WithTrace(ctx, parent, state)
		}
		var stop func()
		if s.methods[r.URL.Path].streams {
			stop = s.stream(c)
		} else {
			ctx, stop = c.deadline(ctx, s.Timeout)
		}
		defer stop()
		next.ServeHTTP(c, r.WithContext(ctx))
	})
}

// finish ends every request: with a reply, whatever happened, and with its log line.
func (s *Stack) finish(c *call) {
	aborted := c.recovered(recover())
	// The last of the reply is sent after this, to a client that may not take it.
	_ = http.NewResponseController(c.ResponseWriter).SetWriteDeadline(time.Now().Add(s.Timeout))
	c.shapeError()
	s.logCall(c)
	if aborted {
		panic(http.ErrAbortHandler)
	}
}

// interceptor is the stack around each RPC.
type interceptor struct{ *Stack }

func (s interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		c := callFrom(ctx)
		c.procedure = req.Spec().Procedure
		defer func() { err = c.outcome(ctx, recover(), err) }()
		m, err := s.enter(ctx, c)
		if err != nil {
			return nil, err
		}
		if err := s.validate(req.Any()); err != nil {
			return nil, err
		}
		if m.public { // Probes must see a server that is busy.
			return next(ctx, req)
		}
		permit, err := s.load.begin(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { s.load.end(permit, err) }()
		return next(ctx, req)
	}
}

func (s interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		c := callFrom(ctx)
		c.procedure = conn.Spec().Procedure
		defer func() { err = c.outcome(ctx, recover(), err) }()
		if _, err := s.enter(ctx, c); err != nil {
			return err
		}
		end, err := s.openStream()
		if err != nil {
			return err
		}
		defer end()
		ctx, stop := s.watch(ctx, c)
		defer stop()
		return next(ctx, validatingConn{conn, s})
	}
}

// enter is what every RPC has to pass, unary or not.
func (s interceptor) enter(ctx context.Context, c *call) (method, error) {
	m := s.methods[c.procedure]
	if err := s.permit(ctx, c, m); err != nil {
		return m, err
	}
	return m, s.limitRate(ctx, c, m)
}

func (s interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
