package oidc

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"

	"plinth/internal/errs"
)

// Keys that cannot be used are left out, and do not harm the others.
func TestKeysThatAreLeftOut(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		changed := func(change func(*jwkset.JWKMarshal)) jwkset.JWKMarshal {
			jwk := jwkOf(t, rsa2().Public(), "bad")
			change(&jwk)
			return jwk
		}
		for name, jwk := range map[string]any{
			"for encryption":       changed(func(k *jwkset.JWKMarshal) { k.USE = jwkset.UseEnc }),
			"for anything else":    changed(func(k *jwkset.JWKMarshal) { k.USE = "tls" }),
			"to sign only":         changed(func(k *jwkset.JWKMarshal) { k.KEYOPS = []jwkset.KEYOPS{jwkset.KeyOpsSign} }),
			"another algorithm":    changed(func(k *jwkset.JWKMarshal) { k.ALG = "RSA-OAEP" }),
			"another type's":       changed(func(k *jwkset.JWKMarshal) { k.ALG = "ES256" }),
			"HS256":                changed(func(k *jwkset.JWKMarshal) { k.ALG = "HS256" }),
			"none":                 changed(func(k *jwkset.JWKMarshal) { k.ALG = "none" }),
			"unknown type":         changed(func(k *jwkset.JWKMarshal) { k.KTY = "AKP" }),
			"without its number":   changed(func(k *jwkset.JWKMarshal) { k.N = "" }),
			"no base64":            changed(func(k *jwkset.JWKMarshal) { k.N = "!" + k.N }),
			"exponent 1":           changed(func(k *jwkset.JWKMarshal) { k.E = "AQ" }),
			"exponent of 65 bits":  changed(func(k *jwkset.JWKMarshal) { k.E = "AQAAAAAAAQAB" }),
			"too long":             changed(func(k *jwkset.JWKMarshal) { k.N += strings.Repeat("A", 8192*4/3/8) }),
			"too short":            jwkOf(t, rsaKey(1024)().Public(), "bad"),
			"the point of another": map[string]any{"kty": "EC", "kid": "bad", "crv": "P-256", "x": "AQAB", "y": "AQAB"},
			"symmetric":            map[string]any{"kty": "oct", "kid": "bad", "k": "c2VjcmV0", "alg": "HS256"},
			"X25519":               jwkOf(t, x25519(t), "bad"),
			"no object":            "bad",
			"null":                 nil,
			"members of no use":    map[string]any{"kty": 1, "kid": []string{"bad"}},
		} {
			i.set(func() { i.keys = []any{jwk, jwkOf(t, rsa1().Public(), "rsa1")} })
			time.Sleep(time.Hour)
			bad, good := token(t, "RS256", rsa2(), "bad", claims{}), token(t, "RS256", rsa1(), "rsa1", claims{})
			if _, err := i.Authenticate(t.Context(), bad); !errs.Is(err, errs.Unauthenticated) || i.issuer.keys.has("bad") {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := i.Authenticate(t.Context(), good); err != nil {
				t.Errorf("%s: the other key: %v", name, err)
			}
		}
		for _, log := range i.logs.All() {
			if text := fmt.Sprint(log.ContextMap()); strings.Contains(text, "c2VjcmV0") {
				t.Errorf("a secret is logged: %s", text)
			}
		}
	})
}

func TestSizesOfRSAKeys(t *testing.T) {
	t.Parallel()
	for bits, want := range map[uint]int{1024: 0, 2047: 0, 2048: 6, 8192: 6, 8193: 0} {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		if got := algorithmsOf(&rsa.PublicKey{N: n, E: 65537}); len(got) != want {
			t.Errorf("%d bits: %v", bits, got)
		}
	}
}

func x25519(t *testing.T) *ecdh.PublicKey {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.PublicKey()
}

// Other members of a JWK do not matter, such as an invalid certificate or the private key.
func TestKeysWithOtherMembers(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		jwk := jwkOf(t, rsa1().Public(), "rsa1")
		jwk.USE, jwk.KEYOPS, jwk.ALG = jwkset.UseSig, []jwkset.KEYOPS{jwkset.KeyOpsVerify}, jwkset.AlgRS256
		jwk.X5C, jwk.X5T, jwk.X5U, jwk.D = []string{"no certificate"}, "x", "http://example.org/cert", "x"
		i.keys = []any{jwk}
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{}))
	})
}

func TestTokensThatNameNoKey(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		none := func(algorithm string, key any) string {
			return tokenWith(t, algorithm, key, map[string]any{}, claims{})
		}
		i.set(func() { i.keys = append(i.keys, jwkOf(t, ec256().Public(), "ec")) })
		i.accepts(t, none("RS256", rsa1()))
		i.accepts(t, none("ES256", ec256()))
		time.Sleep(time.Hour)
		i.set(func() { i.keys = append(i.keys, jwkOf(t, rsa2().Public(), "rsa2")) })
		i.refuses(t, errs.Unauthenticated, none("RS256", rsa1()))
		i.refuses(t, errs.Unauthenticated, none("EdDSA", ed()))
		i.accepts(t, none("ES256", ec256()))
		if i.asked(keysPath) != 2 {
			t.Errorf("asked %d times", i.asked(keysPath))
		}
	})
}

// If the document has not changed, the set is the same, and tokens that it has verified stay verified.
func TestTheSameKeysAgain(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.set(func() { i.cacheControl = "max-age=60" })
		good := token(t, "RS256", rsa1(), "rsa1", claims{})
		first := i.accepts(t, good)
		time.Sleep(time.Minute)
		if i.accepts(t, good) != first || i.asked(keysPath) != 2 {
			t.Errorf("verified again, or not asked: %v", i.requests)
		}
		time.Sleep(time.Minute)
		i.set(func() { i.keys = append(i.keys, jwkOf(t, ec256().Public(), "ec")) })
		if i.accepts(t, good) == first {
			t.Error("what other keys have verified is kept")
		}
	})
}

// An issuer may withdraw all of its keys.
func TestNoKeysAnyMore(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		good := token(t, "RS256", rsa1(), "rsa1", claims{"exp": time.Now().Add(2 * time.Hour).Unix()})
		i.accepts(t, good)
		i.set(func() { i.keys = []any{} })
		time.Sleep(time.Hour)
		i.refuses(t, errs.Unauthenticated, good)
	})
}

func FuzzParseKeySet(f *testing.F) {
	for _, key := range []any{rsa1().Public(), ec256().Public(), ec521().Public(), ed().Public()} {
		document, err := json.Marshal(map[string]any{"keys": []any{jwkOf(f, key, "x")}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := parseKeySet(document)
		if err != nil {
			return
		}
		for _, key := range keys.keys {
			if slices.Contains(key.algorithms, "none") || key.public == nil {
				t.Errorf("%+v", key)
			}
		}
	})
}
