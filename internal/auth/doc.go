// Package auth defines who acts, and for whom: principals and their tenant, scopes, rates, and API keys. Everything else
// stands on it, so it imports nothing but errs and the standard library.
//
// Every call, message and job runs in a context with a Principal. Its tenant is set in each transaction (package pg), where
// PostgreSQL's row level security shows the tenant's own rows and no others: code that forgets the principal sees nothing.
//
// An API key is `plinth_`, 32 random letters and digits, and 6 that are a checksum of them, so that a typing error, and a
// leaked key in a text, can be recognized without asking anybody. Only its SHA-256 is stored: 190 random bits need no slow
// hash. JWTs are verified in auth/oidc.
//
// Errors are errs.Unauthenticated (nobody that is known), errs.PermissionDenied (known, but not allowed) or errs.Unavailable
// (cannot be decided now), and never say more about a credential than that it is wrong.
package auth
