package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const issuerClient = "console"

// tokenLasts is how long tokens of an issuer say that they last. The server takes them for a minute more.
const tokenLasts = 4 * time.Second

// issuer is an OpenID Connect issuer that signs Ada of acme in at once. Codes and refresh tokens are of use once.
type issuer struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu       sync.Mutex
	grants   map[string]url.Values // what was asked for, by code or refresh token
	denies   bool                  // the next sign-in
	audience string
	prompts  []string
	renewals int
	revoked  int
}

func newIssuer(t *testing.T) *issuer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "one"}})
	if err != nil {
		t.Fatal(err)
	}
	public := jwk.Marshal()
	public.ALG = ""
	i := &issuer{key: key, grants: map[string]url.Values{}, audience: "plinth"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys",
			"revocation_endpoint": i.URL + "/revoke", "authorization_response_iss_parameter_supported": true,
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"keys": []any{public}})
	})
	mux.HandleFunc("GET /authorize", i.authorize)
	mux.HandleFunc("POST /token", i.token)
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.grants[r.PostFormValue("token")] != nil {
			i.revoked++
		}
		reply(w, http.StatusOK, nil)
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// reply answers in JSON, which pages of any origin may read.
func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// authorize sends the browser back with a code.
func (i *issuer) authorize(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	asked := r.URL.Query()
	i.prompts = append(i.prompts, asked.Get("prompt"))
	if asked.Get("client_id") != issuerClient || asked.Get("response_type") != "code" || asked.Get("code_challenge_method") != "S256" ||
		asked.Get("state") == "" || asked.Get("nonce") == "" || asked.Get("scope") != "openid offline_access" {
		http.Error(w, fmt.Sprintf("the client asks for %v", asked), http.StatusBadRequest)
		return
	}
	answer := url.Values{"state": {asked.Get("state")}, "iss": {i.URL}}
	if i.denies {
		i.denies = false
		answer.Set("error", "access_denied")
		answer.Set("error_description", "Ada may not")
	} else {
		code := rand.Text()
		i.grants[code] = asked
		answer.Set("code", code)
	}
	http.Redirect(w, r, asked.Get("redirect_uri")+"?"+answer.Encode(), http.StatusFound)
}

// token gives tokens for a code, or for a refresh token.
func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	given := r.PostFormValue("code")
	if r.PostFormValue("grant_type") == "refresh_token" {
		given = r.PostFormValue("refresh_token")
	}
	asked := i.grants[given]
	delete(i.grants, given)
	challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	ofCode := r.PostFormValue("redirect_uri") == asked.Get("redirect_uri") &&
		base64.RawURLEncoding.EncodeToString(challenge[:]) == asked.Get("code_challenge")
	if asked == nil || r.PostFormValue("client_id") != issuerClient || r.PostFormValue("code") != "" && !ofCode {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
		return
	}
	if r.PostFormValue("code") == "" {
		i.renewals++
	}
	refresh := rand.Text()
	i.grants[refresh] = asked
	now := time.Now()
	id := jwt.MapClaims{
		"iss": i.URL, "sub": "ada", "aud": issuerClient, "nonce": asked.Get("nonce"), "preferred_username": "Ada", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	access := jwt.MapClaims{"iss": i.URL, "sub": "ada", "aud": i.audience, "tenant": "acme", "jti": rand.Text(), "exp": now.Add(tokenLasts).Unix()}
	reply(w, http.StatusOK, map[string]any{
		"access_token": i.sign(access), "id_token": i.sign(id), "refresh_token": refresh, "token_type": "Bearer", "expires_in": tokenLasts.Seconds(),
	})
}

func (i *issuer) sign(claims jwt.MapClaims) string {
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = "one"
	signed, _ := token.SignedString(i.key) // The key is one for that method.
	return signed
}

// faults are what the browser's driver does to the issuer. Each answers what it has seen so far.
func (i *issuer) faults() http.Handler {
	mux := http.NewServeMux()
	for path, change := range map[string]func(){
		"/seen":     func() {},
		"/deny":     func() { i.denies = true },
		"/forget":   func() { clear(i.grants) },
		"/mistake":  func() { i.audience = "somebody else" },
		"/mistaken": func() { i.audience = "plinth" },
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, _ *http.Request) {
			i.mu.Lock()
			defer i.mu.Unlock()
			change()
			reply(w, http.StatusOK, map[string]any{"prompts": i.prompts, "renewals": i.renewals, "revoked": i.revoked})
		})
	}
	return mux
}
