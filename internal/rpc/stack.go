package rpc

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/observe"
	"plinth/internal/ratelimit"
	"plinth/internal/share"
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
	// AuthenticateURL returns the principal of the credential in a URL, which is accepted of streams of Server-Sent Events alone;
	// nil means that there are none.
	AuthenticateURL auth.Authenticator
	ActFor          func(ctx context.Context, p *auth.Principal, tenant string) (*auth.Principal, error)
	Denied          func(procedure string) // counts calls refused because of who made them; may be nil

	Limits  Limits
	Limiter *ratelimit.Limiter // nil disables rate limits

	Tracing *observe.Tracing // nil makes no spans

	Draining context.Context // ends when streams are to finish; nil means never
	MaxAge   time.Duration   // of connections and streams; 0 means no limit
}

// Stack wraps the service. Every request passes through it.
type Stack struct {
	Config
	methods map[string]*method
	metrics *metrics
	load    *concurrency
	memory  *memory // of bodies; nil is no limit, likewise
	streams *share.Pool

	publicStreams *share.Pool
	lingering     atomic.Int64 // calls that were answered, of which the rest of the body is read
}

// New returns a stack.
func New(cfg Config) *Stack {
	return &Stack{
		Config: cfg, methods: methodsOf(cfg.Public), metrics: newMetrics(), load: newConcurrency(cfg.Limits.Calls),
		memory: newMemory(cfg.Limits.Memory), streams: newShares(cfg.Limits.Streams), publicStreams: newShares(cfg.Limits.PublicStreams),
	}
}

// Handler returns the handler of the port: services, with the REST routes in their protos, and plain routes, in the stack. The
// chain is built once, for all requests. Errors: a route that is malformed, or there twice.
func (s *Stack) Handler(services []Service, plain []Route) (http.Handler, error) {
	table, err := s.newRoutes(services, plain)
	if err != nil {
		return nil, err
	}
	chain := link(serve)
	for _, around := range slices.Backward([]func(link) link{ // The first one is the outermost.
		s.logCalls,
		shapeErrors,
		recoverPanics,
		s.joinTrace,
		table.find,
		s.limitTime,
		s.guardBrowsers,
		s.admit,
		s.holdBody,
	}) {
		chain = around(chain)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := newCall(w, r) // This sets the request id too.
		chain(context.WithValue(r.Context(), observe.CallKey{}, c), c)
		s.linger(c)
	}), nil
}

// link is a part of the chain, including all that comes after it. It is not an http.Handler, because each of those would
// copy the request to change its context.
type link func(ctx context.Context, c *call)

// options returns the options with which every RPC handler is created.
func (s *Stack) options() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithInterceptors(interceptor{s}),
		codecs(),
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
		if err := c.mayReach(c.procedure); err != nil {
			return nil, err
		}
		if c.transcodes {
			if err := c.fill(ctx, req.Any()); err != nil {
				return nil, err
			}
		}
		if err := takeFault(req.Any()); err != nil {
			return nil, err
		}
		if c.intake != nil {
			c.intake.decoded(req.Any())
		}
		if err := validate(req.Any()); err != nil {
			return nil, err
		}
		if res, err = s.run(ctx, c, req, next); err == nil && c.transcodes {
			res = c.reply(res)
		}
		return res, err
	}
}

// run runs the handler of a unary RPC, in a place among those that run at a time.
func (s *Stack) run(ctx context.Context, c *call, req connect.AnyRequest, next connect.UnaryFunc) (res connect.AnyResponse, err error) {
	m := c.target.method
	switch {
	case m.public: // Probes must succeed on a busy server.
		return next(ctx, req)
	case m.waits(req.Any()):
		return s.wait(ctx, c, m, req, next)
	}
	place, err := s.load.begin(ctx, s.sharer(c))
	if err != nil {
		return nil, err
	}
	defer func() { s.load.end(place, err) }()
	return next(ctx, req)
}

func (s interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		c := callFrom(ctx)
		c.procedure = conn.Spec().Procedure
		if c.transcodes {
			e := newEvents(ctx, c, conn)
			defer func() { e.end(err); err = nil }()
			conn = e
		}
		defer func() { err = c.outcome(ctx, recover(), err) }()
		if err := c.mayReach(c.procedure); err != nil {
			return err
		}
		end, err := s.openStream(c, c.target.method)
		if err != nil {
			return err
		}
		defer end()
		stream, stop := s.open(ctx, c, c.target.method, conn)
		defer stop()
		return stream.outcome(next(stream.ctx, stream))
	}
}

func (s interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
