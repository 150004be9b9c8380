package app

import (
	"context"
	"net/http"
	"time"

	"plinth/internal/auth"
)

// authenticator tells who has a token: an API key, or a JWT of the issuer where there is one. It is nil where AUTH_MODE is off.
func (a *App) authenticator() auth.Authenticator {
	if a.cfg.AuthMode == authOff {
		return nil
	}
	if a.cfg.AuthJWTIssuer == "" {
		return a.tenants.Authenticate
	}
	issuer := auth.NewJWT(auth.JWTConfig{Issuer: a.cfg.AuthJWTIssuer, Audience: a.cfg.AuthJWTAudience}, &http.Client{}, time.Now, a.log)
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

// adminKey is what is kept of AUTH_ADMIN_KEY; zero where there is none.
func (c *Config) adminKey() (auth.KeyHash, error) {
	if c.AuthAdminKey == "" {
		return auth.KeyHash{}, nil
	}
	key := string(c.AuthAdminKey)
	return auth.HashKey(key), auth.CheckKey(key)
}
