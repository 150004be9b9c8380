package auth_test

import (
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

func TestNewKey(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^plinth_[0-9A-Za-z]{38}$`)
	keys, letters := map[string]bool{}, map[rune]int{}
	const count = 2000
	for range count {
		key := auth.NewKey()
		if !form.MatchString(key) || !auth.IsKey(key) || keys[key] {
			t.Fatalf("key %q", key)
		}
		keys[key] = true
		for _, letter := range key[len(auth.KeyPrefix) : len(auth.KeyPrefix)+32] {
			letters[letter]++
		}
		if err := auth.CheckKey(key); err != nil {
			t.Fatal(err)
		}
	}
	// Each of the 62 is equally likely: 1,032 times, plus or minus 7 standard deviations.
	mean := count * 32 / 62
	for letter, n := range letters {
		if n < mean-225 || n > mean+225 {
			t.Errorf("%q came %d times, want about %d", letter, n, mean)
		}
	}
	if len(letters) != 62 {
		t.Errorf("%d letters and digits", len(letters))
	}
}

// Keys that were issued once stay valid. This one was created with the CRC-32 of another implementation (zlib).
func TestFormOfKeysStays(t *testing.T) {
	t.Parallel()
	if err := auth.CheckKey("plinth_0123456789ABCDEFGHIJKLMNOPQRSTUV1ggZdL"); err != nil {
		t.Error(err)
	}
}

func TestTypingErrorsInKeys(t *testing.T) {
	t.Parallel()
	key := auth.NewKey()
	wrong := []string{
		"", "plinth_", key[:len(key)-1], key + "0", " " + key, key + "\n", strings.ToUpper(key), "Plinth_" + key[7:], key[7:],
		"plinth_" + strings.Repeat("0", 31) + "\xff000000", strings.Repeat(key, 1000),
	}
	for n := len(auth.KeyPrefix); n < len(key); n++ {
		other := byte('x')
		if key[n] == other {
			other = 'y'
		}
		wrong = append(wrong, key[:n]+string(other)+key[n+1:])
		if n+1 < len(key) && key[n] != key[n+1] {
			wrong = append(wrong, key[:n]+key[n+1:n+2]+key[n:n+1]+key[n+2:])
		}
	}
	for _, key := range wrong {
		err := auth.CheckKey(key)
		if !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("%.60q: %v", key, err)
			continue
		}
		if len(key) > 8 && strings.Contains(err.Error(), key[:8]) {
			t.Errorf("the error repeats the key: %v", err)
		}
	}
}

func TestHashKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "a", auth.NewKey(), strings.Repeat("long", 100)} {
		if hash := auth.HashKey(key); hash != auth.KeyHash(sha256.Sum256([]byte(key))) {
			t.Errorf("%q: %x", key, hash)
		}
	}
}

func TestIsKey(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]bool{
		"plinth_": true, "plinth_x": true, "plinth": false, "": false, "eyJhbGciOi.x.y": false, "PLINTH_x": false,
	} {
		if auth.IsKey(token) != want {
			t.Errorf("%q: want %v", token, want)
		}
	}
}

func TestShownKey(t *testing.T) {
	t.Parallel()
	key := auth.NewKey()
	if shown := auth.ShownKey(key); shown != key[:11] {
		t.Errorf("shown %q", shown)
	}
}
