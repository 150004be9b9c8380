// Package auth says who acts, and for whom: principals, the scopes that they have, API keys and JWTs.
//
// Every call, message and job runs in a context with a Principal. Its tenant is set in each transaction (package pg), where
// PostgreSQL's row level security shows the tenant's own rows and no others: code that forgets the principal sees nothing.
//
// An API key is `plinth_`, 32 random letters and digits, and 6 that are a checksum of them, so that a typing error, and a
// leaked key in a text, can be told without asking anybody. Only its SHA-256 is kept: the 190 random bits need no slow hash.
//
// What fails here is errs.Unauthenticated (nobody that is known), errs.PermissionDenied (known, and may not) or
// errs.Unavailable (cannot be told now), and never says more of a credential than that it is wrong.
package auth
