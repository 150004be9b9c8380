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

// Limits of one message. gRPC clients accept 4 MiB by default. Below 1 KiB, compression costs the server three times the CPU
// of the call and saves nothing on the wire.
const (
	MaxMessageBytes  = 4 << 20
	compressMinBytes = 1 << 10
)

// Config configures the stack.
type Config struct {
	Log     *zap.Logger   // receives a line for each request
	Timeout time.Duration // of a unary call
	Origins []string      // allowed to call from browsers: each is "*", or scheme://host[:port] with at most one "*" in it
	Public  []string      // paths of the RPCs that anyone may call

	// Authenticate returns the caller; nil means AUTH_MODE=off, where every caller is auth.Anonymous. ActFor returns an
	// administrator's principal for the tenant that it names.
	Authenticate auth.Authenticator
	ActFor       func(ctx context.Context, p *auth.Principal, tenant string) (*auth.Principal, error)
	Denied       func(procedure string) // counts calls refused because of who made them; may be nil

	Limits  Limits
	Limiter *ratelimit.Limiter // nil disables rate limits

	Draining context.Context // ends when streams are to finish; nil means never
	MaxAge   time.Duration   // of connections and streams; 0 means no limit
}

// Stack wraps the service. Every request passes through it.
type Stack struct {
	Config
	methods map[string]method
	load    *concurrency
}

// New returns a stack.
func New(cfg Config) *Stack {
	return &Stack{Config: cfg, methods: methodsOf(cfg.Public), load: newConcurrency(cfg.Limits.Calls)}
}

// Handler returns next wrapped in the stack. The chain is built once, for all requests.
func (s *Stack) Handler(next http.Handler) http.Handler {
	chain := link(func(ctx context.Context, c *call) { next.ServeHTTP(c, c.request.WithContext(ctx)) })
	for _, around := range slices.Backward([]func(link) link{ // The first one is the outermost.
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
		c := newCall(w, r) // This sets the request id too.
		chain(context.WithValue(r.Context(), callKey{}, c), c)
	})
}

// link is a part of the chain, including all that comes after it. It is not an http.Handler, because each of those would
// copy the request to change its context.
type link func(ctx context.Context, c *call)

// Options returns the options with which every RPC handler is created.
func (s *Stack) Options() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithInterceptors(interceptor{s}),
		connect.WithReadMaxBytes(MaxMessageBytes),
		connect.WithCompressMinBytes(compressMinBytes),
	}
}

// interceptor is the part of the stack around each RPC.
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
		if m.public { // Probes must succeed on a busy server.
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
