package rpc

import (
	"context"
	"net/http"
	"strings"
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
// not public, and the REST routes. What they may do is decided in front of the RPC (see interceptor), which is where a REST
// route's method is known.
func (s *Stack) admit(next http.Handler) http.Handler {
	if s.Authenticate == nil {
		anonymous := auth.Anonymous()
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(auth.With(r.Context(), anonymous)))
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, known := s.methods[r.URL.Path]
		if known && m.public || !known && !strings.HasPrefix(r.URL.Path, "/api/") {
			next.ServeHTTP(w, r)
			return
		}
		c := callFrom(r.Context())
		p, err := s.identify(r.Context(), r)
		if err != nil {
			s.refuse(w, c, r, err)
			return
		}
		c.principal = p
		next.ServeHTTP(w, r.WithContext(auth.With(r.Context(), p)))
	})
}

// identify tells who makes a request, and for which tenant.
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

// refuse answers a request in its own protocol; whoever speaks none of RPC's gets the JSON shape, as Connect's clients do.
func (s *Stack) refuse(w http.ResponseWriter, c *call, r *http.Request, err error) {
	if errs.Is(err, errs.Unauthenticated) {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	wire := c.outcome(r.Context(), nil, err)
	s.denied(r.URL.Path)
	c.answered = true
	_ = connect.NewErrorWriter().Write(w, r, wire)
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
		if _, known := s.methods[what]; !known { // A client chooses its paths.
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
