package rpc

import (
	"cmp"
	"context"
	"net/http"

	"connectrpc.com/connect"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// tenantHeader names the tenant that an administrator acts for.
const tenantHeader = "X-Tenant"

// admit decides before any of the body is read whether the call is made: who makes it, whether that one has the scope, and
// whether the rates allow it. A path under /api/ that nothing serves has to be asked for by somebody who is known, too.
func (s *Stack) admit(next link) link {
	anonymous := auth.Anonymous()
	return func(ctx context.Context, c *call) {
		m := c.target.method
		if m.public || c.target == unknown && !c.isREST() {
			c.admitted = m.public
			next(ctx, c)
			return
		}
		p := anonymous
		if s.Authenticate != nil {
			var err error
			c.token = s.tokenOf(c)
			if p, err = s.identify(ctx, c); err != nil {
				s.denied(m)
				s.refuse(ctx, c, err)
				return
			}
			c.principal = p
		}
		ctx = auth.With(ctx, p)
		if c.target != unknown {
			if err := s.mayCall(ctx, c, p, m); err != nil {
				s.refuse(ctx, c, err)
				return
			}
			c.admitted = true
		}
		next(ctx, c)
	}
}

func (s *Stack) mayCall(ctx context.Context, c *call, p *auth.Principal, m *method) error {
	if !p.Allows(m.scope) {
		s.denied(m)
		return errs.New(errs.PermissionDenied, "the scope %q is needed, which this credential does not have", m.scope).Because("SCOPE_MISSING")
	}
	return s.limitRate(ctx, c, m)
}

// tokenOf returns the credential in the URL of a call: the parameter token of a stream of Server-Sent Events, which a browser opens
// without any header of ours.
func (s *Stack) tokenOf(c *call) string {
	if s.AuthenticateURL == nil || !c.target.streams || !c.isREST() || c.method != http.MethodGet || len(c.request.Header["Authorization"]) > 0 {
		return ""
	}
	return c.request.URL.Query().Get("token")
}

// identify returns the principal that makes a call, acting for the requested tenant.
func (s *Stack) identify(ctx context.Context, c *call) (p *auth.Principal, err error) {
	r := c.request
	if c.token != "" {
		p, err = s.AuthenticateURL(ctx, c.token)
	} else {
		var token string
		if token, err = auth.Bearer(r.Header["Authorization"]); err == nil {
			p, err = s.Authenticate(ctx, token)
		}
	}
	if err != nil {
		return nil, err
	}
	names := r.Header[tenantHeader]
	if len(names) > 1 {
		return nil, errs.New(errs.InvalidArgument, "%s: one tenant is allowed", tenantHeader)
	}
	if len(names) == 0 || names[0] == p.Tenant.Name {
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
	if !c.target.rpc {
		c.fail(ctx, err)
		return
	}
	wire := c.outcome(ctx, nil, err)
	c.answered = true
	_ = connect.NewErrorWriter().Write(c, c.request, wire)
}

// mayReach returns an error for a call that was not admitted to an RPC, such as one whose handler is mounted without the stack
// around it.
func (c *call) mayReach(procedure string) error {
	if !c.admitted || c.target.name != procedure {
		return errs.New(errs.Unauthenticated, "authentication is required")
	}
	return nil
}

// denied counts a call that was refused because of who made it. Paths that nothing serves, which clients choose, are one.
func (s *Stack) denied(m *method) {
	if s.Denied != nil {
		s.Denied(cmp.Or(m.name, "unknown"))
	}
}
