package rpc

import (
	"net/http"
	"time"

	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
)

// preflightAge is how long a browser may remember what it was allowed: two hours is the most that Chromium takes.
const preflightAge = 2 * time.Hour

// Browsers stands before everything that is mounted, for the sake of browsers. Pages of the origins may call: each is "*", or
// scheme://host[:port] with at most one "*" in it. Cookies are neither taken nor given, so a page has no more rights than
// what its script brings along.
func Browsers(origins []string, next http.Handler) http.Handler {
	if len(origins) > 0 { // The library takes none for all.
		next = crossOrigin(origins).Handler(next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["Referrer-Policy"] = []string{"no-referrer"}
		h["Content-Security-Policy"] = []string{"default-src 'none'; frame-ancestors 'none'"} // Nothing here is a page.
		if r.TLS != nil {
			h["Strict-Transport-Security"] = []string{"max-age=31536000"}
		}
		next.ServeHTTP(w, r)
	})
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
