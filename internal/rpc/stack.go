package rpc

import (
	"context"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/ratelimit"
)

// Limits of one message. Four MiB is what gRPC clients take by default; below one KiB compression costs the server three
// times the CPU of the call and saves nothing on the wire.
const (
	MaxMessageBytes  = 4 << 20
	compressMinBytes = 1 << 10
)

// Config is what the stack does with calls.
type Config struct {
	Log     *zap.Logger   // gets a line for each request
	Timeout time.Duration // of a unary call
	Origins []string      // whose pages may call: each is "*", or scheme://host[:port] with at most one "*" in it
	Public  []string      // the paths of the RPCs that everybody may call

	// Authenticate returns who calls; nil is AUTH_MODE=off, where everybody is auth.Anonymous. ActFor returns a principal of the
	// tenant that an administrator names.
	Authenticate auth.Authenticator
	ActFor       func(ctx context.Context, p *auth.Principal, tenant string) (*auth.Principal, error)
	Denied       func(procedure string) // counts what was refused for who asked; nil does not

	Limits  Limits
	Limiter *ratelimit.Limiter // nil limits no rates

	Draining context.Context // ends when streams are to finish; nil never does
	MaxAge   time.Duration   // of connections and streams; 0 is no limit
}

// Stack is the one way into the service.
type Stack struct {
	Config
	methods map[string]method
	load    *concurrency
}

// New returns a stack.
func New(cfg Config) *Stack {
	return &Stack{Config: cfg, methods: methodsOf(cfg.Public), load: newConcurrency(cfg.Limits.Calls)}
}

// Handler returns next with the stack around it. It puts the chain together once, for all requests.
func (s *Stack) Handler(next http.Handler) http.Handler {
	chain := link(func(ctx context.Context, c *call) { next.ServeHTTP(c, c.request.WithContext(ctx)) })
	for _, around := range slices.Backward([]func(link) link{ // The first is the outermost.
		s.logCalls,
		shapeErrors,
		recoverPanics,
		joinTrace,
		s.limitTime,
		s.guardBrowsers,
		s.admit,
	}) {
		chain = around(chain)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := newCall(w, r) // With the request's id.
		chain(context.WithValue(r.Context(), callKey{}, c), c)
	})
}

// link is a part of the chain, with all that comes after it. It is no http.Handler because each of those would copy the request
// to change its context.
type link func(ctx context.Context, c *call)

// Options returns what every RPC handler is created with.
func (s *Stack) Options() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithInterceptors(interceptor{s}),
		connect.WithReadMaxBytes(MaxMessageBytes),
		connect.WithCompressMinBytes(compressMinBytes),
	}
}

// interceptor is the stack around each RPC.
type interceptor struct{ *Stack }

func (s interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		c := callFrom(ctx)
		c.procedure = req.Spec().Procedure
		defer func() { err = c.outcome(ctx, recover(), err) }()
		m := s.methods[c.procedure]
		if err := s.permit(ctx, c, m); err != nil {
			return nil, err
		}
		if err := s.limitRate(ctx, c, m); err != nil {
			return nil, err
		}
		if err := validate(req.Any()); err != nil {
			return nil, err
		}
		if m.public { // Probes must see a server that is busy.
			return next(ctx, req)
		}
		place, err := s.load.begin(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { s.load.end(place, err) }()
		return next(ctx, req)
	}
}

func (s interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		c := callFrom(ctx)
		c.procedure = conn.Spec().Procedure
		defer func() { err = c.outcome(ctx, recover(), err) }()
		m := s.methods[c.procedure]
		if err := s.permit(ctx, c, m); err != nil {
			return err
		}
		if err := s.limitRate(ctx, c, m); err != nil {
			return err
		}
		end, err := s.openStream()
		if err != nil {
			return err
		}
		defer end()
		ctx, stop := s.watch(ctx, c)
		defer stop()
		return next(ctx, validatingConn{conn})
	}
}

func (s interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
