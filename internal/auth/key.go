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

// KeyHash is what is kept of an API key.
type KeyHash [sha256.Size]byte

// NewKey makes an API key.
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

// checksum is the CRC-32 of the random part, in the alphabet's digits.
func checksum(random []byte) (digits [keyChecksum]byte) {
	sum := crc32.ChecksumIEEE(random)
	for i := range digits {
		digits[keyChecksum-1-i] = keyAlphabet[sum%uint32(len(keyAlphabet))]
		sum /= uint32(len(keyAlphabet))
	}
	return digits
}

// IsKey says whether a token is meant to be an API key.
func IsKey(token string) bool { return strings.HasPrefix(token, KeyPrefix) }

// CheckKey finds typing errors, and what is no key at all. Errors: Unauthenticated.
func CheckKey(key string) error {
	text := []byte(key)
	rest, found := bytes.CutPrefix(text, []byte(KeyPrefix))
	if !found || len(rest) != keyRandom+keyChecksum || checksum(rest[:keyRandom]) != [keyChecksum]byte(rest[keyRandom:]) {
		return errs.New(errs.Unauthenticated, "this is no API key: it is incomplete or has a typing error")
	}
	return nil
}

// HashKey gives what is kept of a key.
func HashKey(key string) KeyHash {
	var room [64]byte // Keys have room in it, so that it need not be made for each call.
	return sha256.Sum256(append(room[:0], key...))
}

// ShownKey is the part of a key by which people tell it from others.
func ShownKey(key string) string { return key[:len(KeyPrefix)+keyShownChars] }
