// Package seal encrypts the secrets that the service keeps in its database, such as what webhooks are signed with.
//
// A secret is sealed by AES-256-GCM with a random nonce, for a purpose: a text that names the tenant and what the secret is for. It
// opens for that purpose alone, so that a sealed secret is worth nothing in another place. Several keys may be known: the first one
// seals, all of them open. So a key is replaced by putting the new one before it, and left out once everything was sealed anew.
//
// Without a key, Seal returns secrets as they are, and Open returns what is not sealed as it is: whoever reads the database or its
// backups reads the secrets as well.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"plinth/internal/errs"
)

const (
	keyBytes = 32 // AES-256
	// prefix begins a sealed secret. The fingerprint of the key follows, a colon, and the nonce with the ciphertext in Base64.
	prefix = "sealed:"
)

// Keys are the keys that secrets are sealed with. The zero Keys has none. They may be used concurrently, and are never shown.
type Keys struct{ all []key }

type key struct {
	id  string // a fingerprint
	gcm cipher.AEAD
}

func (Keys) String() string   { return "[redacted]" }
func (Keys) GoString() string { return "[redacted]" }

// Parse parses keys: 32 bytes each, in Base64, with commas between them. An empty text has none. The error does not repeat the text.
func Parse(text string) (Keys, error) {
	var keys Keys
	for i, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(part)
		if err != nil || len(raw) != keyBytes {
			return Keys{}, fmt.Errorf("key %d is not %d bytes in Base64", i+1, keyBytes)
		}
		k, err := newKey(raw)
		if err != nil {
			return Keys{}, err
		}
		keys.all = append(keys.all, k)
	}
	return keys, nil
}

func newKey(raw []byte) (key, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return key{}, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	sum := sha256.Sum256(append([]byte("plinth seal "), raw...))
	return key{hex.EncodeToString(sum[:4]), gcm}, err
}

// Any reports whether there is a key.
func (k Keys) Any() bool { return len(k.all) > 0 }

// Seal returns a secret sealed for a purpose, or as it is without a key. An empty one stays empty.
func (k Keys) Seal(purpose, secret string) string {
	if secret == "" || !k.Any() {
		return secret
	}
	first := k.all[0]
	box := first.gcm.Seal(nil, nil, []byte(secret), []byte(purpose))
	return prefix + first.id + ":" + base64.RawStdEncoding.EncodeToString(box)
}

// errNotOpened is why a secret cannot be opened. What it was sealed with is nobody's business but the operator's.
var errNotOpened = errors.New("it was sealed with a key that SECRET_KEYS does not have, or for another purpose")

// Open returns the secret that Seal returned for the same purpose. Errors: FailedPrecondition.
func (k Keys) Open(purpose, sealed string) (string, error) {
	rest, is := strings.CutPrefix(sealed, prefix)
	if !is {
		return sealed, nil
	}
	id, encoded, _ := strings.Cut(rest, ":")
	box, err := base64.RawStdEncoding.DecodeString(encoded)
	for _, known := range k.all {
		if known.id != id || err != nil {
			continue
		}
		if secret, err := known.gcm.Open(nil, nil, box, []byte(purpose)); err == nil {
			return string(secret), nil
		}
	}
	return "", errs.Wrap(errNotOpened, errs.FailedPrecondition, "a secret that the service keeps cannot be opened; set it anew")
}

// Current reports whether a secret, as it is kept, is sealed with the first key, or needs no seal: it is empty, or there is no key
// and it is not sealed.
func (k Keys) Current(sealed string) bool {
	if sealed == "" {
		return true
	}
	if !k.Any() {
		return !strings.HasPrefix(sealed, prefix)
	}
	return strings.HasPrefix(sealed, prefix+k.all[0].id+":")
}
