package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"plinth/internal/rpc/rest"
)

// Service mounts an RPC service, as the generated New…Handler do: it returns the path that all of its RPCs begin with, and
// their handler.
type Service func(options ...connect.HandlerOption) (path string, handler http.Handler)

// Route is a plain route: a path that is no RPC, because no proto can describe what is sent there. It passes the same stack.
// Exactly one of Scope and Public is set.
type Route struct {
	Pattern string            // such as "PUT /api/v1/upload/{filename}"; the last segment may be "{path=**}", which is all that is left
	Scope   string            // that callers need
	Public  bool              // everybody may call it; its query is not looked at
	Query   []string          // names of parameters that the query may have; with a dot at the end, all that begin so
	Header  map[string]string // of every reply, refusals too; may be nil

	// Stall makes the route a stream: it has no deadline as a whole, but the body and the reply must not stand still for
	// longer than this. It is counted as a stream, and ends when its credential does.
	Stall time.Duration

	// Serve replies. Variables of the pattern are in Request.PathValue, decoded once. An error that it returns before it has
	// begun to reply is the reply; afterwards it aborts the reply.
	Serve func(w http.ResponseWriter, r *http.Request) error
}

// target is what a request is for.
type target struct {
	*method
	rpc     bool              // it is an RPC, by its own path
	names   []string          // of the variables in the path
	query   []string          // names that the query of a plain route may have
	header  map[string]string // of every reply
	binding *rest.Binding
	serve   func(ctx context.Context, c *call)
}

// routes is the table of everything that is served.
type routes struct {
	rpcs  map[string]*target   // by their paths
	paths rest.Router[*target] // REST routes and plain ones
}

// newRoutes returns the table of services, with the REST routes in their protos, and of plain routes.
func (s *Stack) newRoutes(services []Service, plain []Route) (*routes, error) {
	t := &routes{rpcs: map[string]*target{}}
	s.metrics.know(unknown.method)
	for _, m := range s.methods {
		s.metrics.know(m)
	}
	var faults []error
	for _, mount := range services {
		path, handler := mount(s.options()...)
		for procedure, m := range s.methods {
			if strings.HasPrefix(procedure, path) {
				t.rpcs[procedure] = &target{method: m, rpc: true, serve: func(ctx context.Context, c *call) {
					if err := c.checkHead(); err != nil {
						s.refuse(ctx, c, err)
						return
					}
					handler.ServeHTTP(c, c.withContext(ctx))
				}}
			}
		}
		_, private := mount(append(s.options(), connect.WithCodec(restCodec{}))...)
		name := protoreflect.FullName(strings.Trim(path, "/"))
		if d, err := protoregistry.GlobalFiles.FindDescriptorByName(name); err == nil {
			faults = append(faults, s.addREST(t, d.(protoreflect.ServiceDescriptor), private))
		}
	}
	for _, r := range plain {
		faults = append(faults, s.addPlain(t, r))
	}
	return t, errors.Join(faults...)
}

// addREST adds the routes of a service. handler serves its RPCs for them alone.
func (s *Stack) addREST(t *routes, service protoreflect.ServiceDescriptor, handler http.Handler) (err error) {
	for i := range service.Methods().Len() {
		d := service.Methods().Get(i)
		rules, faulty := rest.Rules(d)
		err = errors.Join(err, faulty)
		for _, rule := range rules {
			if d.IsStreamingClient() {
				err = errors.Join(err, fmt.Errorf("%s: a stream of requests has no REST route", d.FullName()))
				continue
			}
			to := &target{method: s.methods[fmt.Sprintf("/%s/%s", service.FullName(), d.Name())]}
			to.serve = func(ctx context.Context, c *call) { serveREST(ctx, c, handler) }
			vars, faulty := t.paths.Add(rule.Method, rule.Template, to)
			to.names = vars
			if faulty == nil {
				to.binding, faulty = rest.Bind(d, rule, vars)
			}
			err = errors.Join(err, faulty)
		}
	}
	return err
}

func (s *Stack) addPlain(t *routes, r Route) error {
	verb, template, ok := strings.Cut(r.Pattern, " ")
	if !ok || r.Public == (r.Scope != "") || r.Serve == nil {
		return fmt.Errorf("route %q: a method, a path, Serve, and one of Scope and Public are needed", r.Pattern)
	}
	to := &target{method: &method{name: r.Pattern, scope: r.Scope, public: r.Public, streams: r.Stall > 0, stall: r.Stall}, header: r.Header, query: r.Query}
	s.metrics.know(to.method)
	to.serve = func(ctx context.Context, c *call) { s.servePlain(ctx, c, r.Serve) }
	vars, err := t.paths.Add(verb, template, to)
	to.names = vars
	return err
}

// unknown is what a request is for that nothing serves. The caller of a REST path must be known all the same.
var unknown = &target{method: &method{}}

// find finds out what a request is for, before anything else is decided.
func (t *routes) find(next link) link {
	return func(ctx context.Context, c *call) {
		c.target, c.vars, c.allow = t.lookUp(c.request)
		for name, value := range t.headers(c) {
			c.Header().Set(name, value)
		}
		next(ctx, c)
	}
}

// headers returns what every reply to a request has: to one whose method the path does not have, what the path's others have.
func (t *routes) headers(c *call) map[string]string {
	if len(c.allow) > 0 {
		if other, _, _, ok := t.paths.Match(c.allow[0], c.request.URL.EscapedPath()); ok {
			return other.header
		}
	}
	return c.target.header
}

// lookUp decides by the path as it was sent: nothing is decoded before it is split.
func (t *routes) lookUp(r *http.Request) (to *target, vars, allow []string) {
	path := r.URL.EscapedPath()
	if to := t.rpcs[path]; to != nil {
		return to, nil, nil
	}
	to, vars, allow, ok := t.paths.Match(r.Method, path)
	if !ok {
		to = unknown
	}
	return to, vars, allow
}

// serve replies to the request.
func serve(ctx context.Context, c *call) {
	switch {
	case c.target.serve != nil:
		c.target.serve(ctx, c)
	case len(c.allow) == 0:
		c.WriteHeader(http.StatusNotFound)
	default:
		c.Header().Set("Allow", strings.Join(c.allow, ", "))
		if c.method == http.MethodOptions {
			c.WriteHeader(http.StatusNoContent)
			return
		}
		c.WriteHeader(http.StatusMethodNotAllowed)
	}
}
