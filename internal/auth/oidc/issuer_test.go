package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// pipes is a server's part of a network in memory, which works in a synctest bubble: there time passes only while everything
// waits.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Close() error   { p.close.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return address("example.com") }

type address string

func (a address) Network() string { return "pipe" }
func (a address) String() string  { return string(a) }

// testIssuer is an OIDC issuer and a Verifier of its JWTs.
type testIssuer struct {
	*Verifier
	url  string
	logs *observer.ObservedLogs

	mu           sync.Mutex
	keys         []any // JWKs
	cacheControl string
	discovery    map[string]string
	answer       http.HandlerFunc // answers every path, instead of the documents
	requests     map[string]int   // by host and path
}

const (
	discoveryPath = "example.com/.well-known/openid-configuration"
	keysPath      = "example.com/keys"
)

// inTime runs a test in a synctest bubble, with an issuer that has the key rsa1.
func inTime(t *testing.T, test func(t *testing.T, i *testIssuer)) {
	t.Helper()
	inTimeOf(t, "http", test)
}

func inTimeOf(t *testing.T, scheme string, test func(t *testing.T, i *testIssuer)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newTestIssuer(t, scheme)) })
}

func newTestIssuer(t testing.TB, scheme string) *testIssuer {
	i := &testIssuer{requests: map[string]int{}}
	serve := func(start func(*httptest.Server)) (*httptest.Server, *pipes) {
		server, network := httptest.NewUnstartedServer(i), &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server.Listener.Close()
		server.Listener = network
		start(server)
		return server, network
	}
	// Every host is this server, with TLS except on port 80.
	plain, plainNetwork := serve((*httptest.Server).Start)
	secure, secureNetwork := serve((*httptest.Server).StartTLS)
	client := secure.Client()
	transport := client.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		if strings.HasSuffix(address, ":80") {
			return plainNetwork.dial(ctx)
		}
		return secureNetwork.dial(ctx)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		plain.Close()
		secure.Close()
	})
	core, logs := observer.New(zap.DebugLevel)
	i.url, i.logs = scheme+"://example.com", logs
	i.discovery = map[string]string{"issuer": i.url, "jwks_uri": i.url + "/keys"}
	i.keys = []any{jwkOf(t, rsa1().Public(), "rsa1")}
	i.Verifier = New(Config{Issuer: i.url, Audience: "plinth", Client: client, Now: time.Now, Log: zap.New(core)})
	return i
}

func (i *testIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	path := r.Host + r.URL.Path
	i.requests[path]++
	answer, cacheControl := i.answer, i.cacheControl
	discovery, keys := maps.Clone(i.discovery), map[string]any{"keys": slices.Clone(i.keys)}
	i.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case path == discoveryPath:
		_ = json.NewEncoder(w).Encode(discovery)
	case path == keysPath:
		w.Header().Set("Cache-Control", cacheControl)
		_ = json.NewEncoder(w).Encode(keys)
	default:
		http.NotFound(w, r)
	}
}

// set changes the issuer, holding its lock.
func (i *testIssuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *testIssuer) asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests[path]
}

func away(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }

// accepts and refuses try a token. They return after the fetch that this may have begun in the background.
func (i *testIssuer) accepts(t *testing.T, token string) *auth.Principal {
	t.Helper()
	p, err := i.Authenticate(t.Context(), token)
	synctest.Wait()
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return p
}

func (i *testIssuer) refuses(t *testing.T, kind errs.Kind, token string) *errs.Error {
	t.Helper()
	p, err := i.Authenticate(t.Context(), token)
	synctest.Wait()
	var e *errs.Error
	if p != nil || !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("%v, %v; want an error of kind %d", p, err, kind)
	}
	if kind == errs.Unauthenticated {
		noEcho(t, token, e)
	}
	return e
}

func jwkOf(t testing.TB, public crypto.PublicKey, id string) jwkset.JWKMarshal {
	t.Helper()
	jwk, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}})
	if err != nil {
		t.Fatal(err)
	}
	m := jwk.Marshal()
	m.ALG = ""
	return m
}

// The private keys that sign tokens, each created once.
var (
	rsa1  = rsaKey(2048)
	rsa2  = rsaKey(2048)
	ec256 = ecKey(elliptic.P256())
	ec384 = ecKey(elliptic.P384())
	ec521 = ecKey(elliptic.P521())
	ed    = sync.OnceValue(func() crypto.Signer {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		return key
	})
)

func rsaKey(bits int) func() crypto.Signer {
	return sync.OnceValue(func() crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return key
	})
}

func ecKey(curve elliptic.Curve) func() crypto.Signer {
	return sync.OnceValue(func() crypto.Signer {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	})
}

type claims map[string]any

// token returns a signed token of example.com that is valid for ten minutes, with other claims; a nil claim is left out.
func token(t testing.TB, algorithm string, key any, id string, others claims) string {
	t.Helper()
	return tokenWith(t, algorithm, key, map[string]any{"kid": id}, others)
}

func tokenWith(t testing.TB, algorithm string, key any, header map[string]any, others claims) string {
	t.Helper()
	all := jwt.MapClaims{"iss": "http://example.com", "aud": "plinth", "sub": "alice", "exp": time.Now().Add(10 * time.Minute).Unix()}
	for name, value := range others {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	made := jwt.NewWithClaims(jwt.GetSigningMethod(algorithm), all)
	maps.Copy(made.Header, header)
	signed, err := made.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// noEcho fails if an error repeats a part of the token, or has a cause that may.
func noEcho(t *testing.T, token string, err error) {
	t.Helper()
	if cause := errors.Unwrap(err); cause != nil {
		t.Errorf("the error has a cause: %v", cause)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part[:8]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}
