package rpc

import (
	"context"
	"net/http"
	"time"

	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
)

// preflightAge is how long a browser may remember what it was allowed: two hours is the most that Chromium takes.
const preflightAge = 2 * time.Hour

// guardBrowsers tells browsers what they may do with the replies, and lets pages of the origins call. Cookies are neither taken
// nor set, so a page has no more rights than what its script brings along.
func (s *Stack) guardBrowsers(next link) link {
	var pages *cors.Cors
	if len(s.Origins) > 0 { // The library takes none for all.
		pages = crossOrigin(s.Origins)
	}
	return func(ctx context.Context, c *call) {
		h := c.Header()
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["Referrer-Policy"] = []string{"no-referrer"}
		h["Content-Security-Policy"] = []string{"default-src 'none'; frame-ancestors 'none'"} // No reply is a page.
		if c.request.TLS != nil {
			h["Strict-Transport-Security"] = []string{"max-age=31536000"}
		}
		if pages != nil {
			pages.HandlerFunc(c, c.request)
			if c.status != 0 { // It answered a preflight.
				return
			}
		}
		next(ctx, c)
	}
}

func crossOrigin(origins []string) *cors.Cors {
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: append(connectcors.AllowedMethods(), http.MethodHead, http.MethodPatch, http.MethodPut, http.MethodDelete),
		AllowedHeaders: append(connectcors.AllowedHeaders(), "Authorization", tenantHeader, "X-Request-Id", "Traceparent", "Tracestate"),
		ExposedHeaders: append(connectcors.ExposedHeaders(), "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"),
		MaxAge:         int(preflightAge.Seconds()),
	})
}
