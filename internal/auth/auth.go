package auth

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"plinth/internal/errs"
)

// DefaultTenant is the tenant that is always there. Administrators act for it unless they name another.
const DefaultTenant = "default"

// Scopes that no method names by itself. Each method states its own in its proto, such as queues.read.
const (
	// Admin allows everything, for every tenant.
	Admin = "admin"
	// All allows whatever a tenant's own keys can do.
	All = "*"
)

// Principal is who acts, and for whom. It is shared between calls and must not be changed.
type Principal struct {
	// ID distinguishes principals in logs and records: "key:<id of the API key>", "jwt:<subject>", "admin" or "anonymous".
	ID string
	// Tenant is the one that the principal acts for.
	Tenant Tenant
	Scopes []string
	// Rate limits the calls of this principal. RateSlot is where the rate limiter keeps its bucket of the principal, so that it
	// need not look the bucket up at each call; nil is none.
	Rate     Rate
	RateSlot *atomic.Value
	// Grant narrows what the principal may do within its scopes; nil does not. Only the domain that made it knows what it means.
	Grant any
}

// Tenant is whom a principal acts for, and what that tenant may have.
type Tenant struct {
	Name string
	// Rate limits the calls of all the tenant's principals together. RateSlot is the rate limiter's, as in Principal.
	Rate     Rate
	RateSlot *atomic.Value
	// Quotas that differ from the service's defaults, by name. 0 is no limit.
	Quotas map[string]int64
}

// Anonymous returns the principal of every call when AUTH_MODE is off.
func Anonymous() *Principal {
	return &Principal{ID: "anonymous", Tenant: Tenant{Name: DefaultTenant}, Scopes: []string{Admin}}
}

// IsAdmin reports whether the principal may act for every tenant.
func (p *Principal) IsAdmin() bool { return slices.Contains(p.Scopes, Admin) }

// Allows reports whether one of the principal's scopes covers scope: the same one, the domain's such as "queues.*", All or
// Admin. Nothing covers an empty scope.
func (p *Principal) Allows(scope string) bool {
	domain, _, within := strings.Cut(scope, ".")
	for _, has := range p.Scopes {
		switch has {
		case Admin, scope:
			return scope != ""
		case All:
			if scope != "" && scope != Admin {
				return true
			}
		default: // Not for what is in no domain: "admin.*" is not Admin.
			if whole, ok := strings.CutSuffix(has, ".*"); ok && within && whole == domain {
				return true
			}
		}
	}
	return false
}

type principalKey struct{}

// With returns a context in which p acts.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

var nobody = &Principal{}

// From returns the principal that acts in ctx. If there is none, it returns one without an ID, a tenant and scopes.
func From(ctx context.Context) *Principal {
	if p, ok := ctx.Value(principalKey{}).(*Principal); ok {
		return p
	}
	return nobody
}

// TenantOf returns the name of the tenant that ctx acts for, or "" if nobody acts.
func TenantOf(ctx context.Context) string { return From(ctx).Tenant.Name }

// AsService returns a context in which the service itself acts for a tenant, such as a worker or a relay. If ctx acts for
// that tenant already, it returns ctx.
func AsService(ctx context.Context, tenant string) context.Context {
	if TenantOf(ctx) == tenant {
		return ctx
	}
	return With(ctx, &Principal{ID: "service", Tenant: Tenant{Name: tenant}, Scopes: []string{All}})
}

// Authenticator returns the principal that a token belongs to. Errors: Unauthenticated, PermissionDenied, Unavailable.
type Authenticator func(ctx context.Context, token string) (*Principal, error)

// Bearer returns the token of an Authorization header (RFC 6750), whose scheme is case-insensitive. Errors: Unauthenticated for
// a header that is missing, of another scheme, or present more than once.
func Bearer(headers []string) (string, error) {
	if len(headers) == 0 {
		return "", errs.New(errs.Unauthenticated, "authentication is required: send the header Authorization: Bearer <API key or JWT>")
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	token = strings.TrimSpace(token)
	if len(headers) > 1 || !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", errs.New(errs.Unauthenticated, "the Authorization header is not of the form: Bearer <API key or JWT>")
	}
	return token, nil
}
