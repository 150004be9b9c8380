package rpc

import (
	"context"
	"net/http"
	"time"

	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
)

// preflightAge is how long a browser may cache a preflight reply: Chromium accepts at most two hours.
const preflightAge = 2 * time.Hour

// guardBrowsers sets the security headers of replies, and lets pages of the allowed origins call. Cookies are neither read
// nor set, so a page has no rights other than those that its script brings along.
func (s *Stack) guardBrowsers(next link) link {
	var pages *cors.Cors
	if len(s.Origins) > 0 { // The library treats no origins as all origins.
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
			if c.status != 0 { // A preflight was answered.
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
		AllowedHeaders: append(connectcors.AllowedHeaders(), "Authorization", tenantHeader, "X-Request-Id", "Traceparent", "Tracestate",
			"Idempotency-Key", "Repr-Digest", "Content-Digest", "Range", "If-Range", "If-Match", "If-None-Match", "Last-Event-ID",
			// Those of tus, as its clients for browsers send them.
			"Tus-Resumable", "Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Defer-Length", "Upload-Checksum", "X-HTTP-Method-Override",
			"X-Requested-With"),
		ExposedHeaders: append(connectcors.ExposedHeaders(), "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate",
			"ETag", "Content-Range", "Accept-Ranges", "Content-Disposition", "Repr-Digest", "Location",
			"Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
			"Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Defer-Length", "Upload-Expires"),
		MaxAge: int(preflightAge.Seconds()),
	})
}
