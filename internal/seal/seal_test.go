package seal_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"plinth/internal/errs"
	"plinth/internal/seal"
)

func newKey(t *testing.T) string {
	t.Helper()
	var raw [32]byte
	_, _ = rand.Read(raw[:])
	return base64.StdEncoding.EncodeToString(raw[:])
}

func parse(t *testing.T, keys ...string) seal.Keys {
	t.Helper()
	k, err := seal.Parse(strings.Join(keys, ", "))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A sealed secret does not show, and opens for its purpose alone.
func TestSeal(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	k := parse(t, newKey(t))
	first, second := k.Seal("acme hook", secret), k.Seal("acme hook", secret)
	if first == second || strings.Contains(first, secret) || strings.Contains(first, "MDEy") {
		t.Errorf("sealed it is %s and %s", first, second)
	}
	if got, err := k.Open("acme hook", first); err != nil || got != secret {
		t.Errorf("got %q %v", got, err)
	}
	changed := []byte(first)
	changed[len(changed)-3] ^= 1
	for what, open := range map[string][2]string{
		"another purpose": {"other hook", first}, "a changed one": {"acme hook", string(changed)},
		"half of it": {"acme hook", first[:len(first)/2]}, "only the prefix": {"acme hook", "sealed:"},
	} {
		if got, err := k.Open(open[0], open[1]); !errs.Is(err, errs.FailedPrecondition) || got != "" {
			t.Errorf("%s: %q %v", what, got, err)
		}
	}
	if got := k.Seal("acme hook", ""); got != "" {
		t.Errorf("an empty secret is %q", got)
	}
}

// A key is replaced by one before it: what the old one sealed opens until it is gone, and shows that it is not sealed anew.
func TestKeysAreReplaced(t *testing.T) {
	t.Parallel()
	old, fresh := newKey(t), newKey(t)
	before, both, after := parse(t, old), parse(t, fresh, old), parse(t, fresh)
	sealed := before.Seal("p", "secret")
	if got, err := both.Open("p", sealed); err != nil || got != "secret" || both.Current(sealed) || !before.Current(sealed) {
		t.Errorf("%q %v", got, err)
	}
	if _, err := after.Open("p", sealed); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("without its key: %v", err)
	}
	anew := both.Seal("p", "secret")
	if got, err := after.Open("p", anew); err != nil || got != "secret" || !after.Current(anew) {
		t.Errorf("sealed anew: %q %v", got, err)
	}
}

// Without a key secrets stay as they are, and they still open once there is one.
func TestNoKey(t *testing.T) {
	t.Parallel()
	none, some := parse(t), parse(t, newKey(t))
	if none.Any() || none.Seal("p", "secret") != "secret" || !none.Current("secret") || some.Current("secret") || !some.Current("") {
		t.Error("a secret is not as it was")
	}
	if got, err := some.Open("p", "secret"); err != nil || got != "secret" {
		t.Errorf("%q %v", got, err)
	}
	if none.Current(some.Seal("p", "secret")) {
		t.Error("what nobody can open is current")
	}
	if _, err := none.Open("p", some.Seal("p", "secret")); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a sealed one without a key: %v", err)
	}
}

// Wrong keys are refused, and neither they nor right ones are shown.
func TestParse(t *testing.T) {
	t.Parallel()
	good := newKey(t)
	// AES takes keys of 16 and 24 bytes as well.
	for _, bad := range []string{"short", good + "AA==", good[:20], good + "," + "c2hvcnQ=", strings.Repeat("A", 22) + "==", strings.Repeat("A", 32)} {
		if _, err := seal.Parse(bad); err == nil || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	k := parse(t, good)
	if text := fmt.Sprintf("%v %+v %#v", k, k, k); strings.Contains(text, good) || !strings.Contains(text, "[redacted]") {
		t.Error(text)
	}
}
