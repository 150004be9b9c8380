package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"

	"plinth/internal/errs"
)

// The form of an API key.
const (
	KeyPrefix     = "plinth_"
	keyRandom     = 32
	keyChecksum   = 6
	keyAlphabet   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	keyShownChars = 4
)

// KeyHash is the SHA-256 of an API key, which is all that is stored of one.
type KeyHash [sha256.Size]byte

// NewKey returns a new API key.
func NewKey() string {
	random := make([]byte, 0, keyRandom)
	for len(random) < keyRandom {
		var b [64]byte
		_, _ = rand.Read(b[:]) // It never fails: the process ends first.
		for _, c := range b {
			// Of 256 values 248 are whole alphabets; the others would make its first letters likelier.
			if int(c) < 256/len(keyAlphabet)*len(keyAlphabet) && len(random) < keyRandom {
				random = append(random, keyAlphabet[int(c)%len(keyAlphabet)])
			}
		}
	}
	digits := checksum(random)
	return KeyPrefix + string(random) + string(digits[:])
}

// checksum returns the CRC-32 of the random part, in digits of the alphabet.
func checksum(random []byte) (digits [keyChecksum]byte) {
	sum := crc32.ChecksumIEEE(random)
	for i := range digits {
		digits[keyChecksum-1-i] = keyAlphabet[sum%uint32(len(keyAlphabet))]
		sum /= uint32(len(keyAlphabet))
	}
	return digits
}

// IsKey reports whether a token looks like an API key, rather than a JWT.
func IsKey(token string) bool { return strings.HasPrefix(token, KeyPrefix) }

// CheckKey checks the form and the checksum of an API key, which catches typing errors. Errors: Unauthenticated.
func CheckKey(key string) error {
	text := []byte(key)
	rest, found := bytes.CutPrefix(text, []byte(KeyPrefix))
	if !found || len(rest) != keyRandom+keyChecksum || checksum(rest[:keyRandom]) != [keyChecksum]byte(rest[keyRandom:]) {
		return errs.New(errs.Unauthenticated, "this is no API key: it is incomplete or has a typing error")
	}
	return nil
}

// HashKey returns the hash of an API key.
func HashKey(key string) KeyHash {
	var room [64]byte // A key fits, so that nothing is allocated for each call.
	return sha256.Sum256(append(room[:0], key...))
}

// ShownKey returns the beginning of an API key, by which people recognize it.
func ShownKey(key string) string { return key[:len(KeyPrefix)+keyShownChars] }
