package rpc

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// tenantHeader names the tenant that an administrator acts for.
const tenantHeader = "X-Tenant"

// recheck is how often a stream's credential is looked at again. What it cannot do any longer must end within a second.
const recheck = 500 * time.Millisecond

// admit finds out who calls before anything of the body is read, for every path that is not for everybody: the RPCs that are
// not public, and the REST routes. What they may do is decided in front of the RPC (see interceptor), where the method of a REST
// route is known.
func (s *Stack) admit(next link) link {
	if s.Authenticate == nil {
		anonymous := auth.Anonymous()
		return func(ctx context.Context, c *call) { next(auth.With(ctx, anonymous), c) }
	}
	return func(ctx context.Context, c *call) {
		m, isRPC := s.methods[c.path]
		if isRPC && m.public || !isRPC && !c.isREST() {
			next(ctx, c)
			return
		}
		p, err := s.identify(ctx, c.request)
		if err != nil {
			s.refuse(ctx, c, err)
			return
		}
		c.principal = p
		next(auth.With(ctx, p), c)
	}
}

// identify returns who makes a request, and for which tenant.
func (s *Stack) identify(ctx context.Context, r *http.Request) (*auth.Principal, error) {
	token, err := auth.Bearer(r.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	p, err := s.Authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	names := r.Header[tenantHeader]
	if len(names) == 0 || len(names) == 1 && names[0] == p.Tenant.Name {
		return p, nil
	}
	if !p.IsAdmin() {
		return nil, errs.New(errs.PermissionDenied, "%s: only administrators act for another tenant than their own", tenantHeader).Because("TENANT_DENIED")
	}
	return s.ActFor(ctx, p, names[0])
}

// refuse answers a call in its own protocol; whoever speaks none of RPC's gets the JSON shape, as Connect's clients do.
func (s *Stack) refuse(ctx context.Context, c *call, err error) {
	if errs.Is(err, errs.Unauthenticated) {
		c.Header().Set("WWW-Authenticate", "Bearer")
	}
	wire := c.outcome(ctx, nil, err)
	s.denied(c.path)
	c.answered = true
	_ = connect.NewErrorWriter().Write(c, c.request, wire)
}

// permit decides whether who calls may call this method. Every RPC passes it, also one that is mounted without Handler.
func (s *Stack) permit(ctx context.Context, c *call, m method) error {
	if m.public {
		return nil
	}
	p := auth.From(ctx)
	switch {
	case p.Allows(m.scope):
		return nil
	case p.ID == "":
		return errs.New(errs.Unauthenticated, "authentication is required")
	default:
		s.denied(c.procedure)
		return errs.New(errs.PermissionDenied, "the scope %q is needed, which this credential does not have", m.scope).Because("SCOPE_MISSING")
	}
}

// denied counts what was refused for who asked.
func (s *Stack) denied(what string) {
	if s.Denied != nil {
		if _, isRPC := s.methods[what]; !isRPC { // A client chooses its paths.
			what = "rest"
		}
		s.Denied(what)
	}
}

// watch ends a stream's context when its credential is not good any longer: it was revoked or has expired, say. One that
// cannot be looked at now stays as it is.
func (s *Stack) watch(ctx context.Context, c *call) (context.Context, func()) {
	if s.Authenticate == nil || c.principal == nil {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(recheck, func() {
		<-armed
		_, err := s.identify(ctx, c.request)
		switch {
		case ctx.Err() != nil:
		case errs.Is(err, errs.Unauthenticated), errs.Is(err, errs.PermissionDenied):
			end(err)
		default:
			timer.Reset(recheck)
		}
	})
	close(armed)
	return ctx, func() {
		end(nil)
		timer.Stop()
	}
}
