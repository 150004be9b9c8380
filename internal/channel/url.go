package channel

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

const (
	// DefaultURL is how long a URL works whose creator does not say.
	DefaultURL = time.Hour
	// MaxURL is the longest time for which a URL works.
	MaxURL = 24 * time.Hour

	// scope is that of Subscribe, all that a URL permits.
	scope = "channels.subscribe"

	secretSize = 32
	secretFor  = time.Minute // a process knows a secret, before it asks for it again
	maxSecrets = 10_000
)

// grant is what a URL permits. It is sealed with the secret of its tenant, a row in Postgres, so that every process can read it, and
// nobody else can read or make one.
type grant struct {
	Principal string   `json:"p"`
	Channels  []string `json:"c,omitempty"`
	Patterns  []string `json:"m,omitempty"`
	Expires   int64    `json:"e"` // seconds since 1970
}

// CreateSubscribeUrl returns a URL, relative to that of the service, with which whoever has it can subscribe to channels. Errors:
// InvalidArgument; Unavailable if Postgres is away.
func (s *Service) CreateSubscribeUrl(ctx context.Context, sub Subscription, expiresIn time.Duration) (text string, expires time.Time, err error) {
	if err := checkSubscription(sub); err != nil {
		return "", time.Time{}, err
	}
	if expiresIn == 0 {
		expiresIn = DefaultURL
	}
	if expiresIn < time.Second || expiresIn > MaxURL {
		return "", time.Time{}, errs.New(errs.InvalidArgument, "expires_in: 1 s to %v are allowed", MaxURL)
	}
	expires = time.Now().Add(expiresIn).Truncate(time.Second)
	g := grant{Principal: auth.From(ctx).ID, Expires: expires.Unix()}
	query := url.Values{}
	for _, name := range sub.Channels {
		g.Channels = append(g.Channels, name.name)
		query.Add("channel", name.name)
	}
	for _, p := range sub.Patterns {
		g.Patterns = append(g.Patterns, p.pattern)
		query.Add("pattern", p.pattern)
	}
	token, err := s.seal(ctx, g)
	if err != nil {
		return "", time.Time{}, err
	}
	query.Set("token", token)
	return "/api/v1/channels:subscribe?" + query.Encode(), expires, nil
}

var tokenText = base64.RawURLEncoding.Strict()

func (s *Service) seal(ctx context.Context, g grant) (string, error) {
	tenant := auth.TenantOf(ctx)
	box, err := s.box(ctx, tenant)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(g)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, box.NonceSize())
	_, _ = rand.Read(nonce) // It never fails.
	return tenant + "." + tokenText.EncodeToString(box.Seal(nonce, nonce, plain, []byte(tenant))), nil
}

var errToken = errs.New(errs.Unauthenticated, "token: the URL is incomplete or wrong, or does not work any more; make another one")

// Authenticate returns the principal of the token of a URL: its creator, who may subscribe to the channels of the URL and do nothing
// else. Errors: Unauthenticated, PermissionDenied, Unavailable.
func (s *Service) Authenticate(ctx context.Context, token string) (*auth.Principal, error) {
	tenant, sealed, _ := strings.Cut(token, ".")
	data, err := tokenText.DecodeString(sealed)
	if err != nil || sealed == "" {
		return nil, errToken
	}
	// Whether there is such a tenant is known without a question to the database for each that somebody invents.
	if _, err := s.holder(ctx, "", tenant); err != nil {
		if errs.Is(err, errs.Unavailable) {
			return nil, err
		}
		return nil, errToken
	}
	box, err := s.box(auth.AsService(ctx, tenant), tenant)
	if err != nil {
		return nil, err
	}
	size := box.NonceSize()
	if len(data) < size {
		return nil, errToken
	}
	var g grant
	plain, err := box.Open(nil, data[:size], data[size:], []byte(tenant))
	if err != nil || json.Unmarshal(plain, &g) != nil || time.Now().Unix() >= g.Expires {
		return nil, errToken
	}
	p, err := s.holder(ctx, g.Principal, tenant)
	if err != nil {
		return nil, err
	}
	narrowed := *p
	narrowed.Scopes, narrowed.Grant = []string{scope}, &g
	return &narrowed, nil
}

// permits returns an error unless the principal of ctx may subscribe to channels: that of a URL only to those of the URL.
func permits(ctx context.Context, sub Subscription) error {
	g, narrowed := auth.From(ctx).Grant.(*grant)
	if !narrowed {
		return nil
	}
	for _, name := range sub.Channels {
		if !slices.Contains(g.Channels, name.name) {
			return errs.New(errs.PermissionDenied, "channels: this URL is not for the channel %.64q", name.name)
		}
	}
	for _, p := range sub.Patterns {
		if !slices.Contains(g.Patterns, p.pattern) {
			return errs.New(errs.PermissionDenied, "patterns: this URL is not for the pattern %.64q", p.pattern)
		}
	}
	return nil
}

// secrets are those that the process has read.
type secrets struct {
	mu       sync.Mutex
	byTenant map[string]known
}

type known struct {
	box cipher.AEAD
	at  time.Time
}

// box returns what seals and opens grants of the tenant of ctx.
func (s *Service) box(ctx context.Context, tenant string) (cipher.AEAD, error) {
	s.secrets.mu.Lock()
	k, ok := s.secrets.byTenant[tenant]
	s.secrets.mu.Unlock()
	if ok && time.Since(k.at) < secretFor {
		return k.box, nil
	}
	fresh := make([]byte, secretSize)
	_, _ = rand.Read(fresh) // It never fails.
	secret, err := ensureSecret(ctx, s.db, tenant, fresh)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	box, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	s.secrets.mu.Lock()
	defer s.secrets.mu.Unlock()
	if s.secrets.byTenant == nil || len(s.secrets.byTenant) >= maxSecrets {
		s.secrets.byTenant = map[string]known{}
	}
	s.secrets.byTenant[tenant] = known{box, time.Now()}
	return box, nil
}
