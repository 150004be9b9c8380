package auth

import (
	"context"
	"slices"
	"strings"

	"plinth/internal/errs"
	"plinth/internal/kv"
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

// Principal is who acts, and for whom.
type Principal struct {
	// ID tells principals apart in logs and records: "key:<id of the API key>", "jwt:<subject>", "admin" or "anonymous".
	ID string
	// Tenant is whom it acts for.
	Tenant Tenant
	Scopes []string
	// Rate limits the calls of this principal; zero is no limit. RateHint says where that is counted; nil does not.
	Rate     kv.Rate
	RateHint *kv.Hint
}

// Tenant is whom a principal acts for, and what is allowed to it. It is shared and never changed.
type Tenant struct {
	Name string
	// Rate limits the calls of all its principals together; zero is no limit. RateHint says where that is counted; nil does not.
	Rate     kv.Rate
	RateHint *kv.Hint
	// Quotas that differ from the service's defaults, by their names. 0 is no limit.
	Quotas map[string]int64
}

// Anonymous is everybody where AUTH_MODE is off.
func Anonymous() *Principal {
	return &Principal{ID: "anonymous", Tenant: Tenant{Name: DefaultTenant}, Scopes: []string{Admin}}
}

// IsAdmin says whether the principal may act for every tenant.
func (p *Principal) IsAdmin() bool { return slices.Contains(p.Scopes, Admin) }

// Allows says whether one of the principal's scopes covers scope: the same one, the domain's such as "queues.*", All or
// Admin. An empty scope is covered by nothing.
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

// With gives a context in which p acts.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

var nobody = &Principal{}

// From gives who acts in ctx; where nobody does, a principal without a name, a tenant and any scope.
func From(ctx context.Context) *Principal {
	if p, ok := ctx.Value(principalKey{}).(*Principal); ok {
		return p
	}
	return nobody
}

// TenantOf gives the name of the tenant that ctx acts for; empty where nobody acts.
func TenantOf(ctx context.Context) string { return From(ctx).Tenant.Name }

// AsService gives a context in which the service itself acts for a tenant: a worker or a relay.
func AsService(ctx context.Context, tenant string) context.Context {
	if TenantOf(ctx) == tenant {
		return ctx
	}
	return With(ctx, &Principal{ID: "service", Tenant: Tenant{Name: tenant}, Scopes: []string{All}})
}

// Authenticator tells who has a token. Errors: Unauthenticated, PermissionDenied, Unavailable.
type Authenticator func(ctx context.Context, token string) (*Principal, error)

// Bearer gives the token of an Authorization header (RFC 6750); the scheme's letters may be of either case. Errors:
// Unauthenticated for a header that is missing, of another scheme, or given more than once.
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
