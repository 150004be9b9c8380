package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// Config is whose JWTs a Verifier accepts, and what it works with. All fields are required.
type Config struct {
	Issuer   string       // URL of the OIDC issuer, exactly as it names itself; its discovery document is below it
	Audience string       // must be among the token's aud
	Client   *http.Client // for requests to the issuer; the Verifier sets its own timeout
	Now      func() time.Time
	Log      *zap.Logger
}

const (
	clockSkew  = time.Minute
	maxToken   = 16 << 10 // bytes
	maxSubject = 255      // bytes, as in OpenID Connect Core 1.0, section 2
	// How long a token is accepted after its signature was checked, before it is checked again.
	verifiedFor = 5 * time.Minute
	maxVerified = 10_000 // tokens
)

// Verifier verifies the JWTs (RFC 7519) of one issuer. It checks signatures with the issuer's own keys and accepts only
// public-key algorithms. The claims iss, aud, sub and exp are required; clocks may differ by a minute.
type Verifier struct {
	issuer   *issuer
	audience string
	parser   *jwt.Parser
	now      func() time.Time
}

// New returns a Verifier. It does not contact the issuer, which may be unavailable at the start.
func New(cfg Config) *Verifier {
	return &Verifier{
		issuer:   newIssuer(cfg),
		audience: cfg.Audience,
		now:      cfg.Now,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}),
			jwt.WithIssuer(cfg.Issuer), jwt.WithAudience(cfg.Audience),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockSkew), jwt.WithTimeFunc(cfg.Now),
			jwt.WithStrictDecoding(),
		),
	}
}

// Authenticate returns the principal of a token. Its ID is `jwt:` and the claim sub, its tenant the claim `tenant` (else
// auth.DefaultTenant), its scopes the claim `scope` (RFC 8693), else `scp`. The principal is shared between calls and must
// not be changed. Errors: Unauthenticated; Unavailable if the issuer's keys cannot be fetched.
func (v *Verifier) Authenticate(ctx context.Context, token string) (*auth.Principal, error) {
	if len(token) > maxToken {
		return nil, errs.New(errs.Unauthenticated, "the token is longer than 16 KiB: it is none of the issuer's")
	}
	keys, err := v.issuer.current(ctx)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256([]byte(token))
	if p := keys.verified.get(hash, v.now()); p != nil {
		return p, nil
	}
	claims := jwt.MapClaims{} // Not a struct: its fields would be found in upper case as well.
	_, err = v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (key any, err error) {
		keys, key, err = v.key(ctx, keys, t)
		return key, err
	})
	if err != nil {
		return nil, v.refusal(err)
	}
	p, err := principalOf(claims)
	if err != nil {
		return nil, err
	}
	if expires, err := claims.GetExpirationTime(); err == nil && expires != nil {
		keys.verified.put(hash, p, earlier(expires.Add(clockSkew), v.now().Add(verifiedFor)))
	}
	return p, nil
}

// key returns the public key that a token names and the key set that holds it, which is newer than keys if keys lacks it.
func (v *Verifier) key(ctx context.Context, keys *keySet, t *jwt.Token) (*keySet, any, error) {
	// Whoever does not understand what a token calls critical has to refuse it (RFC 7515, section 4.1.11).
	if _, critical := t.Header["crit"]; critical {
		return nil, nil, errs.New(errs.Unauthenticated, "the token has the header crit: extensions are not supported")
	}
	id, _ := t.Header["kid"].(string)
	if id != "" && !keys.has(id) {
		var err error
		if keys, err = v.issuer.newer(ctx, keys); err != nil {
			return nil, nil, err
		}
	}
	key := keys.find(id, t.Method.Alg())
	if key == nil {
		return nil, nil, errs.New(errs.Unauthenticated, "the token is signed with a key or an algorithm that is none of the issuer's")
	}
	return keys, key, nil
}

// refusal returns the error for a token that was not accepted. It does not wrap the library's error, which may repeat parts of
// the token and must not reach the log either.
func (v *Verifier) refusal(err error) error {
	var own *errs.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, jwt.ErrTokenExpired):
		return errs.New(errs.Unauthenticated, "the token has expired: get a new one")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return errs.New(errs.Unauthenticated, "the token is not valid yet: wait, or set the clock of the issuer")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return errs.New(errs.Unauthenticated, "the token is of another issuer: get one of %s", v.issuer.url)
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return errs.New(errs.Unauthenticated, "the token is for another audience: get one for %s", v.audience)
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return errs.New(errs.Unauthenticated, "the token's claims iss, aud and exp are needed, and nbf and iat must be times")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errs.New(errs.Unauthenticated, "the token's signature is wrong, or by an algorithm that is not allowed")
	default:
		return errs.New(errs.Unauthenticated, "the token is no JWT: send an API key, or a JWT of the issuer")
	}
}

// tenantName is the form of a tenant's name (plinth.tenant.v1).
var tenantName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// principalOf returns the principal that claims describe. It refuses a claim that is present but not understood, since that
// claim might have meant fewer rights.
func principalOf(claims jwt.MapClaims) (*auth.Principal, error) {
	subject, _ := claims["sub"].(string)
	if subject == "" || len(subject) > maxSubject || strings.ContainsFunc(subject, isUnprintable) {
		return nil, errs.New(errs.Unauthenticated, "the token's claim sub must be 1 to %d bytes of printable text", maxSubject)
	}
	tenant := auth.DefaultTenant
	if claim, has := claims["tenant"]; has {
		tenant, _ = claim.(string)
		if !tenantName.MatchString(tenant) {
			return nil, errs.New(errs.Unauthenticated, "the token's claim tenant is not the name of a tenant")
		}
	}
	claim, has := claims["scope"]
	if !has {
		claim, has = claims["scp"]
	}
	var scopes []string
	if has {
		var err error
		if scopes, err = scopesOf(claim); err != nil {
			return nil, err
		}
	}
	return &auth.Principal{ID: "jwt:" + subject, Tenant: auth.Tenant{Name: tenant}, Scopes: scopes}, nil
}

// isUnprintable reports whether r may not stand in a subject. That includes what invalid UTF-8 decodes to: otherwise two
// subjects could become one.
func isUnprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// scopesOf returns the scopes of a claim: a string with spaces between them, or a list.
func scopesOf(claim any) ([]string, error) {
	switch claim := claim.(type) {
	case string:
		return strings.Fields(claim), nil
	case []any:
		scopes := make([]string, len(claim))
		for n, scope := range claim {
			var isText bool
			if scopes[n], isText = scope.(string); !isText {
				return nil, errs.New(errs.Unauthenticated, "the token's scopes are not text")
			}
		}
		return scopes, nil
	default:
		return nil, errs.New(errs.Unauthenticated, "the token's scopes are neither text nor a list")
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// verifiedTokens are the tokens that were verified with one key set, by their SHA-256. The tokens themselves are not kept.
type verifiedTokens struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]verifiedToken
}

type verifiedToken struct {
	principal *auth.Principal
	until     time.Time
}

// get returns the principal of a token, or nil if the token is unknown or must be verified again.
func (v *verifiedTokens) get(hash [sha256.Size]byte, now time.Time) *auth.Principal {
	v.mu.Lock()
	defer v.mu.Unlock()
	if token, has := v.tokens[hash]; has && now.Before(token.until) {
		return token.principal
	}
	return nil
}

// put remembers a token. When there is no room it forgets any other one, whose signature is then checked again.
func (v *verifiedTokens) put(hash [sha256.Size]byte, p *auth.Principal, until time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tokens == nil {
		v.tokens = map[[sha256.Size]byte]verifiedToken{}
	}
	if _, has := v.tokens[hash]; !has && len(v.tokens) >= maxVerified {
		for other := range v.tokens {
			delete(v.tokens, other)
			break
		}
	}
	v.tokens[hash] = verifiedToken{principal: p, until: until}
}
