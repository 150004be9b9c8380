package app

import (
	"context"
	"net/http"
	"time"

	"plinth/internal/auth"
	"plinth/internal/auth/oidc"
)

// authenticator returns the authenticator of API keys, and of JWTs if there is an issuer. It returns nil if AUTH_MODE is
// off.
func (a *App) authenticator() auth.Authenticator {
	if a.cfg.Auth.Mode == authOff {
		return nil
	}
	if a.cfg.Auth.JWTIssuer == "" {
		return a.tenants.Authenticate
	}
	issuer := oidc.New(oidc.Config{
		Issuer: a.cfg.Auth.JWTIssuer, Audience: a.cfg.Auth.JWTAudience, Client: &http.Client{}, Now: time.Now, Log: a.log,
	})
	return func(ctx context.Context, token string) (*auth.Principal, error) {
		if auth.IsKey(token) {
			return a.tenants.Authenticate(ctx, token)
		}
		p, err := issuer.Authenticate(ctx, token)
		if err != nil {
			return nil, err
		}
		return a.tenants.ActFor(ctx, p, p.Tenant.Name)
	}
}

// adminKey returns the hash of AUTH_ADMIN_KEY, zero if it is not set.
func (c *Config) adminKey() auth.KeyHash {
	if c.Auth.AdminKey == "" {
		return auth.KeyHash{}
	}
	return auth.HashKey(string(c.Auth.AdminKey))
}
