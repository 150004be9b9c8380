package auth

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

	"plinth/internal/errs"
)

// JWTConfig says whose JWTs are believed. Neither may be empty.
type JWTConfig struct {
	Issuer   string // URL of the OIDC issuer, exactly as it names itself; its discovery document is below it
	Audience string // must be among the token's aud
}

const (
	clockSkew  = time.Minute
	maxToken   = 16 << 10 // bytes
	maxSubject = 255      // bytes, as in OpenID Connect Core 1.0, section 2
	// A token that was verified is believed for so long without its signature being checked again.
	verifiedFor = 5 * time.Minute
	maxVerified = 10_000 // tokens
)

// JWT tells who has a JWT of one issuer (RFC 7519). Its signature is checked with the issuer's own keys, by public-key
// algorithms alone; iss, aud, sub and exp are needed, and the clocks may differ by a minute.
type JWT struct {
	issuer   *issuer
	audience string
	parser   *jwt.Parser
	now      func() time.Time
}

// NewJWT asks the issuer nothing yet: it may be away at the start. Requests go through client, with a timeout of their own.
func NewJWT(cfg JWTConfig, client *http.Client, now func() time.Time, log *zap.Logger) *JWT {
	return &JWT{
		issuer:   newIssuer(cfg.Issuer, client, now, log),
		audience: cfg.Audience,
		now:      now,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}),
			jwt.WithIssuer(cfg.Issuer), jwt.WithAudience(cfg.Audience),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockSkew), jwt.WithTimeFunc(now),
			jwt.WithStrictDecoding(),
		),
	}
}

// Authenticate gives the principal of a token: `jwt:` and its sub, the tenant of its claim `tenant` (else DefaultTenant), and
// the scopes of its claim `scope` (RFC 8693), else `scp`. The principal is shared between calls: nobody may change it.
// Errors: Unauthenticated; Unavailable where the issuer's keys cannot be had.
func (j *JWT) Authenticate(ctx context.Context, token string) (*Principal, error) {
	if len(token) > maxToken {
		return nil, errs.New(errs.Unauthenticated, "the token is longer than 16 KiB: it is none of the issuer's")
	}
	keys, err := j.issuer.current(ctx)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256([]byte(token))
	if p := keys.verified.get(hash, j.now()); p != nil {
		return p, nil
	}
	claims := jwt.MapClaims{} // Not a struct: its fields would be found in upper case as well.
	_, err = j.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (key any, err error) {
		keys, key, err = j.key(ctx, keys, t)
		return key, err
	})
	if err != nil {
		return nil, j.refusal(err)
	}
	p, err := principalOf(claims)
	if err != nil {
		return nil, err
	}
	if expires, err := claims.GetExpirationTime(); err == nil && expires != nil {
		keys.verified.put(hash, p, earlier(expires.Add(clockSkew), j.now().Add(verifiedFor)))
	}
	return p, nil
}

// key gives the public key that a token names, and the set that has it: newer ones than keys where they lack it.
func (j *JWT) key(ctx context.Context, keys *keySet, t *jwt.Token) (*keySet, any, error) {
	// Whoever does not understand what a token calls critical has to refuse it (RFC 7515, section 4.1.11).
	if _, critical := t.Header["crit"]; critical {
		return nil, nil, errs.New(errs.Unauthenticated, "the token has the header crit: extensions are not supported")
	}
	id, _ := t.Header["kid"].(string)
	if id != "" && !keys.has(id) {
		var err error
		if keys, err = j.issuer.newer(ctx, keys); err != nil {
			return nil, nil, err
		}
	}
	key := keys.find(id, t.Method.Alg())
	if key == nil {
		return nil, nil, errs.New(errs.Unauthenticated, "the token is signed with a key or an algorithm that is none of the issuer's")
	}
	return keys, key, nil
}

// refusal says why a token is refused. The library's own errors may repeat parts of the token, and are kept from the log too.
func (j *JWT) refusal(err error) error {
	var own *errs.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, jwt.ErrTokenExpired):
		return errs.New(errs.Unauthenticated, "the token has expired: get a new one")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return errs.New(errs.Unauthenticated, "the token is not valid yet: wait, or set the clock of the issuer")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return errs.New(errs.Unauthenticated, "the token is of another issuer: get one of %s", j.issuer.url)
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return errs.New(errs.Unauthenticated, "the token is for another audience: get one for %s", j.audience)
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return errs.New(errs.Unauthenticated, "the token's claims iss, aud and exp are needed, and nbf and iat must be times")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errs.New(errs.Unauthenticated, "the token's signature is wrong, or by an algorithm that is not allowed")
	default:
		return errs.New(errs.Unauthenticated, "the token is no JWT: send an API key, or a JWT of the issuer")
	}
}

// tenantName is the form that the names of tenants have (plinth.tenant.v1).
var tenantName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// principalOf refuses a claim that is there and is not understood: what it meant to say might be less.
func principalOf(claims jwt.MapClaims) (*Principal, error) {
	subject, _ := claims["sub"].(string)
	if subject == "" || len(subject) > maxSubject || strings.ContainsFunc(subject, isUnprintable) {
		return nil, errs.New(errs.Unauthenticated, "the token's claim sub must be 1 to %d bytes of printable text", maxSubject)
	}
	tenant := DefaultTenant
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
	return &Principal{ID: "jwt:" + subject, Tenant: Tenant{Name: tenant}, Scopes: scopes}, nil
}

// isUnprintable includes what a text that is no UTF-8 was read as, so that no two subjects become one.
func isUnprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// scopesOf reads scopes from a text with spaces between them, or from a list.
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

// verifiedTokens are tokens that were verified with one set of keys, by their SHA-256: the tokens themselves are not kept.
type verifiedTokens struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]verifiedToken
}

type verifiedToken struct {
	principal *Principal
	until     time.Time
}

// get gives nil for a token that is not known, or not to be believed any more.
func (v *verifiedTokens) get(hash [sha256.Size]byte, now time.Time) *Principal {
	v.mu.Lock()
	defer v.mu.Unlock()
	if token, has := v.tokens[hash]; has && now.Before(token.until) {
		return token.principal
	}
	return nil
}

// put makes room by forgetting any other token, which costs no more than a check of its signature.
func (v *verifiedTokens) put(hash [sha256.Size]byte, p *Principal, until time.Time) {
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
