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

// recheck is how often a stream's credential is checked again. A stream must end within a second of losing its permission.
const recheck = 500 * time.Millisecond

// admit authenticates the caller before any of the body is read, for every path that is not public: the RPCs that are not
// public, and the REST routes. Authorization happens in front of the RPC (see interceptor), where the method of a REST route
// is known.
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

// identify returns the principal that makes a request, acting for the requested tenant.
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

// refuse answers a call in its own protocol. A caller that speaks no RPC protocol gets the JSON shape that Connect clients
// get.
func (s *Stack) refuse(ctx context.Context, c *call, err error) {
	if errs.Is(err, errs.Unauthenticated) {
		c.Header().Set("WWW-Authenticate", "Bearer")
	}
	wire := c.outcome(ctx, nil, err)
	s.denied(c.path)
	c.answered = true
	_ = connect.NewErrorWriter().Write(c, c.request, wire)
}

// permit returns an error if the caller may not call this method. It runs for every RPC, even one that is mounted without
// Handler.
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

// denied counts a call that was refused because of who made it.
func (s *Stack) denied(what string) {
	if s.Denied != nil {
		if _, isRPC := s.methods[what]; !isRPC { // Clients choose their paths.
			what = "rest"
		}
		s.Denied(what)
	}
}

// watch cancels a stream's context when its credential is no longer valid, for example because it was revoked or has
// expired. If the credential cannot be checked at the moment, the stream stays open.
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
