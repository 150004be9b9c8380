package oidc

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

const (
	// How long keys are fresh: Cache-Control's max-age, within bounds.
	defaultFresh = time.Hour
	minFresh     = time.Minute
	maxFresh     = 24 * time.Hour
	// How long keys are used after they were fresh while the issuer is away. A key that it withdraws meanwhile is accepted
	// until then.
	staleLimit = 24 * time.Hour
	// An unknown key ID has the keys fetched again, at most once in this time for the whole process.
	unknownKeyInterval = 10 * time.Second

	minBackoff     = time.Second
	maxBackoff     = 30 * time.Second
	requestTimeout = 5 * time.Second
	maxResponse    = 1 << 20 // bytes
	maxRedirects   = 3
	maxKeys        = 100
)

// issuer fetches and holds the keys of an OIDC issuer. It fetches them when they are first needed and again when they are no
// longer fresh, each time by way of the discovery document, so that the issuer may move them.
type issuer struct {
	url    string
	client *http.Client
	now    func() time.Time
	log    *zap.Logger

	mu         sync.Mutex
	keys       *keySet   // nil until they were fetched once
	freshUntil time.Time // of keys
	failures   int       // failed fetches since the last one that did not fail
	askFrom    time.Time // when the issuer may be asked again after a failure
	unknownKey time.Time // when an unknown key ID last had the keys fetched
	running    *fetch    // the one fetch under way; nil if there is none
}

// fetch is one attempt to fetch the keys. Many calls may wait for it; it goes on when they end.
type fetch struct {
	done chan struct{}
	keys *keySet // once done
	err  error
}

func (f *fetch) wait(ctx context.Context) (*keySet, error) {
	select {
	case <-f.done:
		return f.keys, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newIssuer(cfg Config) *issuer {
	own := *cfg.Client
	own.Timeout = requestTimeout
	own.CheckRedirect = sameOrigin
	return &issuer{url: cfg.Issuer, client: &own, now: cfg.Now, log: cfg.Log.With(zap.String("issuer", cfg.Issuer))}
}

// current returns the keys to verify with. It blocks while keys that are missing or no longer fresh are fetched; but after a
// failed fetch it returns the old keys at once, for staleLimit. Errors: Unavailable.
func (i *issuer) current(ctx context.Context) (*keySet, error) {
	i.mu.Lock()
	now, keys := i.now(), i.keys
	if keys != nil && now.Before(i.freshUntil) {
		i.mu.Unlock()
		return keys, nil
	}
	usable := keys != nil && now.Before(i.freshUntil.Add(staleLimit))
	f := i.start(now)
	failing, pause := i.failures > 0, i.askFrom.Sub(now)
	i.mu.Unlock()

	if usable && failing {
		return keys, nil
	}
	if f == nil {
		return nil, errs.New(errs.Unavailable, "the issuer's keys cannot be had now").After(pause)
	}
	renewed, err := f.wait(ctx)
	switch {
	case err == nil:
		return renewed, nil
	case usable:
		return keys, nil
	default:
		return nil, errs.Wrap(err, errs.Unavailable, "the issuer's keys cannot be had now")
	}
}

// newer returns keys that are newer than old, which lacks a key that a token names. It returns old itself if the issuer may
// not be asked now. Errors: Unavailable.
func (i *issuer) newer(ctx context.Context, old *keySet) (*keySet, error) {
	i.mu.Lock()
	now, keys, f := i.now(), i.keys, i.running
	if keys == old && f == nil && now.Sub(i.unknownKey) >= unknownKeyInterval {
		if f = i.start(now); f != nil {
			i.unknownKey = now
		}
	}
	i.mu.Unlock()

	if keys != old || f == nil {
		return keys, nil
	}
	renewed, err := f.wait(ctx)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "the issuer's keys cannot be had now")
	}
	return renewed, nil
}

// start returns the fetch under way, or begins one. It returns nil if the issuer failed a moment ago. i.mu must be held.
func (i *issuer) start(now time.Time) *fetch {
	if i.running == nil && !now.Before(i.askFrom) {
		i.running = &fetch{done: make(chan struct{})}
		go i.fetch(i.running, now)
	}
	return i.running
}

// fetch fetches the keys for f. It takes at most twice requestTimeout.
func (i *issuer) fetch(f *fetch, began time.Time) {
	defer observe.LogPanic(i.log)
	keys, fresh, err := i.load()

	i.mu.Lock()
	defer i.mu.Unlock()
	defer close(f.done)
	i.running = nil
	if err != nil {
		f.err = err
		i.failures++
		pause := loop.Delay(i.failures, minBackoff, maxBackoff)
		i.askFrom = i.now().Add(pause)
		i.log.Warn("the issuer's keys cannot be had", zap.Error(err), zap.Int("failures", i.failures), zap.Duration("again_in", pause))
		return
	}
	if i.keys == nil || !bytes.Equal(i.keys.document, keys.document) {
		i.keys = keys // With them goes what the old ones have verified.
		i.log.Info("the issuer's keys are new", zap.Int("usable", len(keys.keys)), zap.Strings("left_out", keys.leftOut))
	}
	f.keys, i.freshUntil, i.failures, i.askFrom = i.keys, began.Add(fresh), 0, time.Time{}
}

// load fetches the discovery document (OpenID Connect Discovery 1.0, section 4) and the keys that it points to.
func (i *issuer) load() (keys *keySet, fresh time.Duration, err error) {
	body, _, err := i.get(strings.TrimSuffix(i.url, "/") + "/.well-known/openid-configuration")
	if err != nil {
		return nil, 0, fmt.Errorf("discovery: %w", err)
	}
	var discovery struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &discovery); err != nil {
		return nil, 0, fmt.Errorf("discovery: %w", err)
	}
	if discovery.Issuer != i.url {
		return nil, 0, fmt.Errorf("discovery: the document is of the issuer %.200q", discovery.Issuer)
	}
	uri, err := url.Parse(discovery.JWKSURI)
	if err != nil || uri.Host == "" || uri.Scheme != "https" && (uri.Scheme != "http" || !strings.HasPrefix(i.url, "http://")) {
		return nil, 0, fmt.Errorf("discovery: jwks_uri is no https URL: %.200q", discovery.JWKSURI)
	}
	body, header, err := i.get(discovery.JWKSURI)
	if err != nil {
		return nil, 0, fmt.Errorf("keys: %w", err)
	}
	keys, err = parseKeySet(body)
	if err != nil {
		return nil, 0, fmt.Errorf("keys: %w", err)
	}
	return keys, freshFor(header), nil
}

// get fetches a document. It has no context, since several calls may wait for it: the client's timeout ends it.
func (i *issuer) get(url string) ([]byte, http.Header, error) {
	response, err := i.client.Get(url)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("GET %s: status %d", response.Request.URL.Redacted(), response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	if err != nil {
		return nil, nil, err
	}
	if len(body) > maxResponse {
		return nil, nil, fmt.Errorf("GET %s: the answer is longer than 1 MiB", response.Request.URL.Redacted())
	}
	return body, response.Header, nil
}

// sameOrigin allows redirects that keep the scheme, the host and the port.
func sameOrigin(to *http.Request, via []*http.Request) error {
	if from := via[0].URL; to.URL.Scheme != from.Scheme || to.URL.Host != from.Host {
		return errors.New("redirected to another host")
	}
	if len(via) > maxRedirects {
		return errors.New("redirected too often")
	}
	return nil
}

// freshFor returns how long an answer is fresh by its max-age (RFC 9111, section 5.2.2.1).
func freshFor(header http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if seconds, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64); err == nil {
			// Bounded first, since a time.Duration cannot hold as many seconds.
			seconds = min(max(seconds, 0), int64(maxFresh/time.Second))
			return max(minFresh, time.Duration(seconds)*time.Second)
		}
	}
	return defaultFresh
}

// keySet is a JWK set (RFC 7517) as it was fetched, and the tokens that were verified with it.
type keySet struct {
	document []byte
	keys     []verificationKey
	leftOut  []string // for each key of the document that is not among keys, why
	verified verifiedTokens
}

// verificationKey is a public key to verify signatures with.
type verificationKey struct {
	id         string   // empty if the issuer named none
	algorithms []string // that the key is for
	public     any      // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// parseKeySet parses a JWK set. It leaves out the keys that cannot be used here: a set may have others beside them (RFC 7517,
// section 5).
func parseKeySet(document []byte) (*keySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil || len(set.Keys) > maxKeys { // An empty list is an answer: the issuer has withdrawn all.
		return nil, fmt.Errorf("the document has no list of keys, or more than %d", maxKeys)
	}
	keys := &keySet{document: document}
	for n, raw := range set.Keys {
		key, err := parseKey(raw)
		if err != nil {
			keys.leftOut = append(keys.leftOut, fmt.Sprintf("key %d: %.200s", n, err.Error()))
			continue
		}
		keys.keys = append(keys.keys, key)
	}
	return keys, nil
}

func parseKey(raw json.RawMessage) (verificationKey, error) {
	var jwk jwkset.JWKMarshal
	if err := json.Unmarshal(raw, &jwk); err != nil {
		return verificationKey{}, err
	}
	if jwk.USE != "" && jwk.USE != jwkset.UseSig || len(jwk.KEYOPS) > 0 && !slices.Contains(jwk.KEYOPS, jwkset.KeyOpsVerify) {
		return verificationKey{}, errors.New("it is not for signatures")
	}
	// Nothing but the public key is read. A certificate beside it says nothing that the issuer has not said itself.
	parsed, err := jwkset.NewJWKFromMarshal(jwkset.JWKMarshal{KTY: jwk.KTY, CRV: jwk.CRV, X: jwk.X, Y: jwk.Y, N: jwk.N, E: jwk.E},
		jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return verificationKey{}, err
	}
	algorithms := algorithmsOf(parsed.Key())
	if jwk.ALG != "" {
		algorithms = slices.DeleteFunc(algorithms, func(algorithm string) bool { return algorithm != string(jwk.ALG) })
	}
	if len(algorithms) == 0 {
		return verificationKey{}, errors.New("its type, size or algorithm is none that is allowed")
	}
	return verificationKey{id: jwk.KID, algorithms: algorithms, public: parsed.Key()}, nil
}

// algorithmsOf returns the algorithms of RFC 7518 and 8037 that a public key fits: RSA needs 2048 bits at least, and each
// ECDSA algorithm its own curve.
func algorithmsOf(public any) []string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= 2048 && bits <= 8192 { // Longer ones would cost too much.
			return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return []string{"ES256"}
		case elliptic.P384():
			return []string{"ES384"}
		case elliptic.P521():
			return []string{"ES512"}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// has reports whether the set has a key with this ID.
func (s *keySet) has(id string) bool {
	return slices.ContainsFunc(s.keys, func(key verificationKey) bool { return key.id == id })
}

// find returns the public key with an ID for an algorithm, or nil if there is none. A token may leave the ID out if only one
// key fits its algorithm (OpenID Connect Core 1.0, section 10.1).
func (s *keySet) find(id, algorithm string) any {
	var found []any
	for _, key := range s.keys {
		if (id == "" || key.id == id) && slices.Contains(key.algorithms, algorithm) {
			found = append(found, key.public)
		}
	}
	if len(found) == 0 || id == "" && len(found) > 1 {
		return nil
	}
	return found[0]
}
