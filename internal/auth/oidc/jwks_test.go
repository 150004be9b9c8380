package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"plinth/internal/errs"
)

func TestKeysAreFetchedAtTheFirstTokenAndKept(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		synctest.Wait()
		if len(i.requests) != 0 {
			t.Errorf("the issuer was asked at the start: %v", i.requests)
		}
		for n := range 3 {
			i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{"n": n}))
		}
		if i.asked(discoveryPath) != 1 || i.asked(keysPath) != 1 {
			t.Errorf("requests %v", i.requests)
		}
	})
}

func TestFreshFor(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"":                               time.Hour,
		"no-cache":                       time.Hour,
		"max-age":                        time.Hour,
		"max-age=x":                      time.Hour,
		"s-maxage=7":                     time.Hour,
		"max-age=0":                      time.Minute,
		"max-age=-5":                     time.Minute,
		"public, Max-Age=600, immutable": 10 * time.Minute,
		`max-age="600"`:                  10 * time.Minute,
		"max-age=86401":                  24 * time.Hour,
		"max-age=9223372036854775807":    24 * time.Hour,
	} {
		if got := freshFor(http.Header{"Cache-Control": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	if got := freshFor(http.Header{"Cache-Control": {"public", "max-age=120"}}); got != 2*time.Minute {
		t.Errorf("two headers: %v", got)
	}
}

func TestKeysAreRenewedOnceWhenNoLongerFresh(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.set(func() { i.cacheControl = "max-age=600" })
		old := token(t, "RS256", rsa1(), "rsa1", claims{"exp": time.Now().Add(time.Hour).Unix()})
		i.accepts(t, old)
		i.set(func() { i.keys = []any{jwkOf(t, ec256().Public(), "ec")} })
		time.Sleep(10*time.Minute - time.Nanosecond)
		i.accepts(t, old)
		if i.asked(keysPath) != 1 {
			t.Errorf("asked %d times while fresh", i.asked(keysPath))
		}
		time.Sleep(time.Nanosecond)
		release := make(chan struct{})
		i.set(func() {
			i.answer = func(w http.ResponseWriter, r *http.Request) {
				<-release
				i.set(func() { i.answer = nil; i.requests[r.Host+r.URL.Path]-- })
				i.ServeHTTP(w, r)
			}
		})
		// The key was withdrawn: its tokens are refused, even one that was verified before.
		errsOf := make(chan error, 50)
		for range cap(errsOf) {
			go func() {
				_, err := i.Authenticate(t.Context(), old)
				errsOf <- err
			}()
		}
		synctest.Wait()
		close(release)
		for range cap(errsOf) {
			// The unknown key of the first one causes one more fetch.
			if err := <-errsOf; !errs.Is(err, errs.Unauthenticated) {
				t.Errorf("a withdrawn key: %v", err)
			}
		}
		if i.asked(keysPath) != 3 || i.asked(discoveryPath) != 3 {
			t.Errorf("asked for the keys %d times, want 3", i.asked(keysPath))
		}
	})
}

func TestOldKeysAreUsedWhileTheIssuerIsAwayButNotForEver(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		good := func() string { return token(t, "RS256", rsa1(), "rsa1", claims{}) }
		i.accepts(t, good())
		i.set(func() { i.answer = away })
		end := time.Now().Add(time.Hour + 24*time.Hour)
		time.Sleep(time.Hour)
		for time.Until(end) > 50*time.Minute {
			i.accepts(t, good())
			time.Sleep(50 * time.Minute)
		}
		time.Sleep(time.Until(end) - time.Nanosecond)
		i.accepts(t, good())
		time.Sleep(time.Nanosecond)
		i.refuses(t, errs.Unavailable, good())
		time.Sleep(24 * time.Hour)
		i.refuses(t, errs.Unavailable, good())
		i.set(func() { i.answer = nil })
		time.Sleep(maxBackoff)
		i.accepts(t, good())
	})
}

// Calls do not wait for an issuer that is known to hang.
func TestOldKeysAreGivenAtOnceWhileTheIssuerHangs(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{}))
		i.set(func() { i.answer = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } })
		time.Sleep(time.Hour)
		for _, wait := range []time.Duration{requestTimeout, 0, 0} {
			began := time.Now()
			if _, err := i.Authenticate(t.Context(), token(t, "RS256", rsa1(), "rsa1", claims{})); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != wait {
				t.Errorf("it took %v, want %v", took, wait)
			}
			time.Sleep(maxBackoff)
		}
	})
}

func TestAnIssuerThatIsAwayIsNotAskedForEachCall(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.set(func() { i.answer = away })
		good := token(t, "RS256", rsa1(), "rsa1", claims{"exp": time.Now().Add(time.Hour).Unix()})
		first := i.refuses(t, errs.Unavailable, good)
		if first.Message != "the issuer's keys cannot be had now" || errors.Unwrap(first) == nil {
			t.Errorf("error %v", first)
		}
		for range 100 {
			again := i.refuses(t, errs.Unavailable, good)
			if again.RetryAfter < minBackoff/2 || again.RetryAfter > minBackoff {
				t.Fatalf("again after %v", again.RetryAfter)
			}
		}
		if i.asked(discoveryPath) != 1 {
			t.Errorf("asked %d times at once", i.asked(discoveryPath))
		}
		for range 600 {
			time.Sleep(time.Second)
			i.refuses(t, errs.Unavailable, good)
		}
		if n := i.asked(discoveryPath); n < 600/30 || n > 600/15+7 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		i.set(func() { i.answer = nil })
		time.Sleep(maxBackoff)
		i.accepts(t, good)
		if n := len(i.logs.FilterMessage("the issuer's keys cannot be had").All()); n != i.asked(discoveryPath)-1 {
			t.Errorf("%d failures are logged", n)
		}
	})
}

func TestARotatedKeyWorksAtOnceAndUnknownOnesAreLimited(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{}))
		i.set(func() { i.keys = append(i.keys, jwkOf(t, ec256().Public(), "ec")) })
		i.accepts(t, token(t, "ES256", ec256(), "ec", claims{}))
		if i.asked(keysPath) != 2 {
			t.Errorf("asked %d times", i.asked(keysPath))
		}
		for n := range 100 {
			i.refuses(t, errs.Unauthenticated, token(t, "RS256", rsa2(), fmt.Sprint("random", n), claims{}))
		}
		if i.asked(keysPath) != 2 {
			t.Errorf("random keys made it be asked %d times", i.asked(keysPath))
		}
		i.set(func() { i.keys = append(i.keys, jwkOf(t, rsa2().Public(), "rsa2")) })
		i.refuses(t, errs.Unauthenticated, token(t, "RS256", rsa2(), "rsa2", claims{}))
		time.Sleep(unknownKeyInterval)
		i.accepts(t, token(t, "RS256", rsa2(), "rsa2", claims{}))
		for n := range 100 {
			i.refuses(t, errs.Unauthenticated, token(t, "RS256", rsa2(), fmt.Sprint("random", n), claims{}))
			time.Sleep(time.Second)
		}
		if n := i.asked(keysPath); n < 12 || n > 13 {
			t.Errorf("asked %d times in 100 s", n)
		}
	})
}

func TestAnUnknownKeyWhileTheIssuerIsAway(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{}))
		i.set(func() { i.answer = away })
		i.refuses(t, errs.Unavailable, token(t, "ES256", ec256(), "ec", claims{}))
		i.refuses(t, errs.Unauthenticated, token(t, "ES256", ec256(), "ec", claims{}))
		i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{}))
		if i.asked(discoveryPath) != 2 {
			t.Errorf("asked %d times", i.asked(discoveryPath))
		}
	})
}

// If the call that began a fetch ends, another call still gets the result.
func TestACallThatEndsLeavesTheFetchToOthers(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		release := make(chan struct{})
		i.set(func() {
			i.answer = func(w http.ResponseWriter, r *http.Request) {
				<-release
				i.set(func() { i.answer = nil })
				i.ServeHTTP(w, r)
			}
		})
		good := token(t, "RS256", rsa1(), "rsa1", claims{})
		ctx, cancel := context.WithCancel(t.Context())
		first, other := make(chan error, 1), make(chan error, 1)
		try := func(ctx context.Context, result chan error) {
			_, err := i.Authenticate(ctx, good)
			result <- err
		}
		go try(ctx, first)
		synctest.Wait()
		go try(t.Context(), other)
		synctest.Wait()
		cancel()
		if err := <-first; !errs.Is(err, errs.Unavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("the call that ended: %v", err)
		}
		synctest.Wait()
		close(release)
		if err := <-other; err != nil {
			t.Errorf("the other call: %v", err)
		}
		if i.asked(keysPath) != 1 {
			t.Errorf("asked %d times", i.asked(keysPath))
		}
	})
}

func TestRequestsTimeOut(t *testing.T) {
	inTime(t, func(t *testing.T, i *testIssuer) {
		i.set(func() { i.answer = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } })
		began := time.Now()
		i.refuses(t, errs.Unavailable, token(t, "RS256", rsa1(), "rsa1", claims{}))
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestDiscoveryIsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		scheme, member, value string
	}{
		"another issuer":        {"http", "issuer", "http://example.org"},
		"issuer with a slash":   {"http", "issuer", "http://example.com/"},
		"no issuer":             {"http", "issuer", ""},
		"no jwks_uri":           {"http", "jwks_uri", ""},
		"a path":                {"http", "jwks_uri", "/keys"},
		"a file":                {"http", "jwks_uri", "file:///etc/passwd"},
		"another scheme":        {"http", "jwks_uri", "ftp://example.com/keys"},
		"no URL":                {"http", "jwks_uri", "http://[::1"},
		"http of https issuer":  {"https", "jwks_uri", "http://example.com/keys"},
		"HTTPS issuer's scheme": {"https", "issuer", "http://example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			inTimeOf(t, test.scheme, func(t *testing.T, i *testIssuer) {
				i.set(func() { i.discovery[test.member] = test.value })
				i.refuses(t, errs.Unavailable, token(t, "RS256", rsa1(), "rsa1", claims{"iss": i.url}))
				if i.asked(discoveryPath) != 1 || i.asked(keysPath) != 0 {
					t.Errorf("requests %v", i.requests)
				}
			})
		})
	}
	t.Run("https of https issuer", func(t *testing.T) {
		inTimeOf(t, "https", func(t *testing.T, i *testIssuer) {
			i.accepts(t, token(t, "RS256", rsa1(), "rsa1", claims{"iss": i.url}))
		})
	})
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	document := func(size int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			text := `{"issuer": "http://example.com", "jwks_uri": "http://example.com/keys", "keys": []}`
			fmt.Fprint(w, text, strings.Repeat(" ", size-len(text)))
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		kind   errs.Kind
	}{
		"1 MiB":           {document(1 << 20), errs.Unauthenticated}, // It was read: the error is that the key is unknown.
		"more than 1 MiB": {document(1<<20 + 1), errs.Unavailable},
		"without end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				fmt.Fprint(w, strings.Repeat(" ", 1<<16))
			}
		}, errs.Unavailable},
		"no JSON": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, errs.Unavailable},
		"no keys": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"issuer": "http://example.com", "jwks_uri": "http://example.com/keys"}`)
		}, errs.Unavailable},
		"101 keys": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer": "http://example.com", "jwks_uri": "http://example.com/keys", "keys": [0%s]}`, strings.Repeat(", 0", 100))
		}, errs.Unavailable},
		"404": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			document(200)(w, r)
		}, errs.Unavailable},
		"204": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, i *testIssuer) {
				i.set(func() { i.answer = test.answer })
				i.refuses(t, test.kind, token(t, "RS256", rsa1(), "rsa1", claims{}))
			})
		})
	}
}

func TestRedirectsStayWithTheHost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		to     string
		follow bool
	}{
		"the same host": {"/moved", true},
		"another host":  {"https://example.org/keys", false},
		"another port":  {"https://example.com:8443/keys", false},
		"a subdomain":   {"https://a.example.com/keys", false},
		"plain text":    {"http://example.com/keys", false},
		"for ever":      {"/.well-known/openid-configuration", false},
	} {
		t.Run(name, func(t *testing.T) {
			inTimeOf(t, "https", func(t *testing.T, i *testIssuer) {
				i.set(func() {
					i.answer = func(w http.ResponseWriter, r *http.Request) {
						switch r.URL.Path {
						case "/.well-known/openid-configuration":
							http.Redirect(w, r, test.to, http.StatusFound)
						case "/moved":
							_ = json.NewEncoder(w).Encode(i.discovery)
						default:
							_ = json.NewEncoder(w).Encode(map[string]any{"keys": i.keys, "issuer": i.url, "jwks_uri": i.url + "/keys"})
						}
					}
				})
				good := token(t, "RS256", rsa1(), "rsa1", claims{"iss": i.url})
				if test.follow {
					i.accepts(t, good)
					return
				}
				i.refuses(t, errs.Unavailable, good)
				if n := i.asked(discoveryPath); len(i.requests) != 1 || n > maxRedirects+1 {
					t.Errorf("requests %v", i.requests)
				}
			})
		})
	}
}
