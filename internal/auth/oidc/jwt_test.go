package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// signers returns a key for each algorithm.
func signers() map[string]crypto.Signer {
	return map[string]crypto.Signer{
		"RS256": rsa1(), "RS384": rsa1(), "RS512": rsa1(), "PS256": rsa1(), "PS384": rsa1(), "PS512": rsa1(),
		"ES256": ec256(), "ES384": ec384(), "ES512": ec521(), "EdDSA": ed(),
	}
}

func TestAlgorithmsThatAreAllowed(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		for algorithm, key := range signers() {
			i.keys = append(i.keys, jwkOf(t, key.Public(), "of "+algorithm))
		}
		for algorithm, key := range signers() {
			if p := i.accepts(t, token(t, algorithm, key, "of "+algorithm, claims{})); p.ID != "jwt:alice" {
				t.Errorf("%s: %+v", algorithm, p)
			}
		}
	})
}

// A key whose JWK names an algorithm is not accepted for another one.
func TestAlgorithmOfTheKey(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		bound := jwkOf(t, rsa1().Public(), "bound")
		bound.ALG = jwkset.AlgPS256
		i.keys = []any{bound, jwkOf(t, ec256().Public(), "ec256"), jwkOf(t, ec384().Public(), "ec384")}
		i.accepts(t, token(t, "PS256", rsa1(), "bound", claims{}))
		for _, refused := range []string{
			token(t, "RS256", rsa1(), "bound", claims{}),
			token(t, "PS384", rsa1(), "bound", claims{}),
			token(t, "RS256", rsa1(), "ec256", claims{}),
			token(t, "ES256", ec256(), "bound", claims{}),
			token(t, "EdDSA", ed(), "ec256", claims{}),
			ofAnotherCurve(t),
		} {
			i.refuses(t, errs.Unauthenticated, refused)
		}
	})
}

// ofAnotherCurve returns a token of ES512 that is signed by a P-384 key. No library creates such tokens, but some would
// verify them.
func ofAnotherCurve(t *testing.T) string {
	t.Helper()
	text := token(t, "ES512", ec521(), "ec384", claims{})
	text = text[:strings.LastIndex(text, ".")]
	hash := sha512.Sum512([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, ec384().(*ecdsa.PrivateKey), hash[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 2*66)
	r.FillBytes(signature[:66])
	s.FillBytes(signature[66:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestTokensThatAreRefused(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.keys = append(i.keys, jwkOf(t, ec256().Public(), "ec"))
		good := token(t, "RS256", rsa1(), "rsa1", claims{})
		part := strings.Split(good, ".")
		encode := base64.RawURLEncoding.EncodeToString
		signed := func(c claims) string { return token(t, "RS256", rsa1(), "rsa1", c) }
		der, err := x509.MarshalPKIXPublicKey(rsa1().Public())
		if err != nil {
			t.Fatal(err)
		}
		asText := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		tampered := encode([]byte(`{"iss":"http://example.com","aud":"plinth","sub":"bob","exp":99999999999}`))
		noText := `{"iss":"http://example.com","aud":"plinth","exp":99999999999,"sub":"alice` + "\xff\"}"
		header := func(name string, value any) string {
			return tokenWith(t, "RS256", rsa1(), map[string]any{"kid": "rsa1", name: value}, claims{})
		}
		for name, test := range map[string]struct{ token, says string }{
			"alg none":              {token(t, "none", jwt.UnsafeAllowNoneSignatureType, "rsa1", claims{}), "not allowed"},
			"alg None":              {encode([]byte(`{"alg":"None","kid":"rsa1"}`)) + "." + part[1] + ".", "no JWT"},
			"alg none, signature":   {encode([]byte(`{"alg":"none","kid":"rsa1"}`)) + "." + part[1] + "." + part[2], "not allowed"},
			"no alg":                {encode([]byte(`{"kid":"rsa1"}`)) + "." + part[1] + "." + part[2], "no JWT"},
			"HS256, the DER key":    {token(t, "HS256", der, "rsa1", claims{}), "not allowed"},
			"HS256, the PEM key":    {token(t, "HS256", asText, "rsa1", claims{}), "not allowed"},
			"HS512":                 {token(t, "HS512", []byte("secret"), "", claims{}), "not allowed"},
			"wrong key":             {token(t, "RS256", rsa2(), "rsa1", claims{}), "signature is wrong"},
			"wrong key, EC":         {token(t, "ES256", ecKey(elliptic.P256())(), "ec", claims{}), "signature is wrong"},
			"tampered payload":      {part[0] + "." + tampered + "." + part[2], "signature is wrong"},
			"tampered header":       {encode([]byte(`{"alg":"RS256","kid":"rsa1" }`)) + "." + part[1] + "." + part[2], "signature is wrong"},
			"tampered signature":    {part[0] + "." + part[1] + "." + encode(make([]byte, 256)), "signature is wrong"},
			"no signature":          {part[0] + "." + part[1] + ".", "signature is wrong"},
			"another algorithm":     {encode([]byte(`{"alg":"PS256","kid":"rsa1"}`)) + "." + part[1] + "." + part[2], "signature is wrong"},
			"signature with a bit":  {good[:len(good)-1] + "B", "no JWT"},
			"crit":                  {header("crit", []string{"exp"}), "crit"},
			"crit b64":              {header("crit", []string{"b64"}), "crit"},
			"crit null":             {header("crit", nil), "crit"},
			"expired":               {signed(claims{"exp": time.Now().Unix() - 60}), "has expired"},
			"no exp":                {signed(claims{"exp": nil}), "exp"},
			"exp 0":                 {signed(claims{"exp": 0}), "exp"},
			"exp text":              {signed(claims{"exp": "99999999999"}), "exp"},
			"exp without end":       {signed(claims{"exp": math.MaxFloat64}), "has expired"},
			"not yet":               {signed(claims{"nbf": time.Now().Unix() + 61}), "not valid yet"},
			"nbf text":              {signed(claims{"nbf": "now"}), "nbf"},
			"issued in the future":  {signed(claims{"iat": time.Now().Unix() + 61}), "not valid yet"},
			"another audience":      {signed(claims{"aud": "other"}), "get one for plinth"},
			"other audiences":       {signed(claims{"aud": []string{"other", "Plinth", "plinth "}}), "get one for plinth"},
			"no audience":           {signed(claims{"aud": nil}), "aud"},
			"empty audience":        {signed(claims{"aud": []string{}}), "aud"},
			"audience of numbers":   {signed(claims{"aud": []int{1}}), "aud"},
			"another issuer":        {signed(claims{"iss": "http://example.org"}), "get one of http://example.com"},
			"issuer and a slash":    {signed(claims{"iss": "http://example.com/"}), "get one of http://example.com"},
			"no issuer":             {signed(claims{"iss": nil}), "iss"},
			"upper-case claims":     {signed(claims{"sub": nil, "SUB": "alice"}), "claim sub"},
			"no sub":                {signed(claims{"sub": nil}), "claim sub"},
			"empty sub":             {signed(claims{"sub": ""}), "claim sub"},
			"sub number":            {signed(claims{"sub": 7}), "claim sub"},
			"long sub":              {signed(claims{"sub": strings.Repeat("a", 256)}), "claim sub"},
			"sub with a line break": {signed(claims{"sub": "alice\nadmin"}), "claim sub"},
			"sub with a NUL":        {signed(claims{"sub": "alice\x00"}), "claim sub"},
			"sub right to left":     {signed(claims{"sub": "alice\u202e"}), "claim sub"},
			"sub no UTF-8":          {tokenOf(t, part[0], noText), "claim sub"},
			"tenant number":         {signed(claims{"tenant": 1}), "claim tenant"},
			"tenant list":           {signed(claims{"tenant": []string{"a"}}), "claim tenant"},
			"tenant empty":          {signed(claims{"tenant": ""}), "claim tenant"},
			"tenant of two lines":   {signed(claims{"tenant": "a\n"}), "claim tenant"},
			"tenant upper case":     {signed(claims{"tenant": "Default"}), "claim tenant"},
			"long tenant":           {signed(claims{"tenant": strings.Repeat("a", 64)}), "claim tenant"},
			"scope number":          {signed(claims{"scope": 1}), "scopes"},
			"scp object":            {signed(claims{"scp": map[string]any{"admin": true}}), "scopes"},
			"scp of numbers":        {signed(claims{"scp": []any{"queues.read", 1}}), "scopes"},
			"too long":              {signed(claims{"x": strings.Repeat("x", maxToken)}), "16 KiB"},
			"empty":                 {"", "no JWT"},
			"garbage":               {"garbage", "no JWT"},
			"dots":                  {"..", "no JWT"},
			"many dots":             {strings.Repeat(".", maxToken), "no JWT"},
			"four parts":            {good + ".x", "no JWT"},
			"padding":               {good + "=", "no JWT"},
			"a space":               {good + " ", "no JWT"},
			"no JSON":               {encode([]byte("RS256")) + "." + part[1] + "." + part[2], "no JWT"},
			"null":                  {encode([]byte("null")) + "." + encode([]byte("null")) + ".", "no JWT"},
			"payload null":          {tokenOf(t, part[0], "null"), "iss"},
			"payload number":        {tokenOf(t, part[0], `{"exp": 1e999}`), "no JWT"},
			"deep JSON":             {tokenOf(t, part[0], strings.Repeat("[", 10000)), "no JWT"},
		} {
			if e := i.refuses(t, errs.Unauthenticated, test.token); !strings.Contains(e.Message, test.says) {
				t.Errorf("%s: %q, want one that says %q", name, e.Message, test.says)
			}
		}
		i.accepts(t, good)
		if n := i.asked(keysPath); n != 1 {
			t.Errorf("the issuer was asked %d times", n)
		}
	})
}

// tokenOf returns a token with any header and payload, signed with rsa1.
func tokenOf(t *testing.T, header, payload string) string {
	t.Helper()
	text := header + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	signature, err := jwt.SigningMethodRS256.Sign(text, rsa1())
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// A token that is too long is refused without asking the issuer.
func TestTokenLength(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		sized := func(size int) string {
			for fill := size * 3 / 4; ; fill-- {
				if made := token(t, "RS256", rsa1(), "rsa1", claims{"x": strings.Repeat("x", fill)}); len(made) <= size {
					return made
				}
			}
		}
		i.refuses(t, errs.Unauthenticated, sized(maxToken)+"xx")
		if len(i.requests) != 0 {
			t.Errorf("requests %v", i.requests)
		}
		i.accepts(t, sized(maxToken))
	})
}

func TestClockSkew(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		now := time.Now().Unix()
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{"exp": now - 59}))
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{"nbf": now + 60, "iat": now + 60}))
	})
}

func TestPrincipalOfClaims(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		long := strings.Repeat("é", 127) + "e"
		for name, test := range map[string]struct {
			claims     claims
			id, tenant string
			scopes     []string
		}{
			"least":           {claims{}, "jwt:alice", auth.DefaultTenant, nil},
			"tenant":          {claims{"tenant": "acme-2"}, "jwt:alice", "acme-2", nil},
			"long subject":    {claims{"sub": long}, "jwt:" + long, auth.DefaultTenant, nil},
			"scope":           {claims{"scope": "queues.read  files.*"}, "jwt:alice", auth.DefaultTenant, []string{"queues.read", "files.*"}},
			"empty scope":     {claims{"scope": ""}, "jwt:alice", auth.DefaultTenant, nil},
			"scp text":        {claims{"scp": "queues.read admin"}, "jwt:alice", auth.DefaultTenant, []string{"queues.read", "admin"}},
			"scp list":        {claims{"scp": []string{"queues.read", "*"}}, "jwt:alice", auth.DefaultTenant, []string{"queues.read", "*"}},
			"scope over scp":  {claims{"scope": "a.b", "scp": "admin"}, "jwt:alice", auth.DefaultTenant, []string{"a.b"}},
			"many audiences":  {claims{"aud": []string{"other", "plinth"}}, "jwt:alice", auth.DefaultTenant, nil},
			"other case":      {claims{"Scope": "admin", "TENANT": "acme"}, "jwt:alice", auth.DefaultTenant, nil},
			"unknown members": {claims{"nbf": 1, "iat": 1, "jti": "x", "roles": []string{"admin"}}, "jwt:alice", auth.DefaultTenant, nil},
		} {
			p := i.accepts(t, token(t, "RS256", rsa1(), "rsa1", test.claims))
			if p.ID != test.id || p.Tenant.Name != test.tenant || !slices.Equal(p.Scopes, test.scopes) {
				t.Errorf("%s: %+v", name, p)
			}
			if p.Rate.IsLimit() || p.Tenant.Rate.IsLimit() || p.Tenant.Quotas != nil {
				t.Errorf("%s: limits from nowhere: %+v", name, p)
			}
		}
	})
}

func TestVerifiedTokensAreRemembered(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		long := token(t, "RS256", rsa1(), "rsa1", claims{"exp": time.Now().Add(time.Hour).Unix()})
		short := token(t, "RS256", rsa1(), "rsa1", claims{"exp": time.Now().Add(2 * time.Minute).Unix()})
		first, brief := i.accepts(t, long), i.accepts(t, short)
		time.Sleep(3*time.Minute - time.Nanosecond)
		if i.accepts(t, long) != first || i.accepts(t, short) != brief {
			t.Error("a repeated token was verified again")
		}
		time.Sleep(time.Nanosecond)
		if e := i.refuses(t, errs.Unauthenticated, short); !strings.Contains(e.Message, "expired") {
			t.Errorf("an expired token: %v", e)
		}
		time.Sleep(2*time.Minute - time.Nanosecond)
		if i.accepts(t, long) != first {
			t.Error("it was verified again before five minutes")
		}
		time.Sleep(time.Nanosecond)
		if i.accepts(t, long) == first {
			t.Error("it was not verified again after five minutes")
		}
		if i.refuses(t, errs.Unauthenticated, long[:len(long)-4]) == nil {
			t.Error("a part of a verified token got in")
		}
	})
}

func TestVerifiedTokensAreBounded(t *testing.T) {
	t.Parallel()
	var v verifiedTokens
	now := time.Unix(1e9, 0)
	for n := range maxVerified + 100 {
		hash := sha256.Sum256(fmt.Append(nil, n))
		v.put(hash, &auth.Principal{}, now.Add(time.Second))
		if v.get(hash, now) == nil {
			t.Fatal("the newest is forgotten")
		}
		v.put(hash, &auth.Principal{}, now.Add(time.Second))
	}
	if len(v.tokens) != maxVerified {
		t.Errorf("%d tokens", len(v.tokens))
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	i := newTestIssuer(b, "http")
	good := token(b, "RS256", rsa1(), "rsa1", claims{"exp": time.Now().Add(time.Hour).Unix(), "scope": "queues.read queues.write"})
	authenticate := func(b *testing.B) {
		if _, err := i.Authenticate(b.Context(), good); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			authenticate(b)
		}
	})
	b.Run("cached, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				authenticate(b)
			}
		})
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			clear(i.issuer.keys.verified.tokens)
			authenticate(b)
		}
	})
}
