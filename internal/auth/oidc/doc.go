// Package oidc authenticates the JWTs of one OpenID Connect issuer, whose keys it finds by discovery.
//
// Keys are fetched when a token first needs them and again when they are no longer fresh. While the issuer is away the old
// keys are used for another day. A token is refused with errs.Unauthenticated, or with errs.Unavailable if there are no keys
// to verify it with; errors and logs never repeat a token.
package oidc
