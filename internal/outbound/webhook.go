package outbound

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"plinth/internal/errs"
)

// Header fields of Standard Webhooks (https://www.standardwebhooks.com), in the form that http.Header has them in.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

const secretPrefix = "whsec_"

// Secret is a key that webhooks are signed with. It is never shown. The zero Secret is none.
type Secret struct{ key string }

func (Secret) String() string   { return "[redacted]" }
func (Secret) GoString() string { return "[redacted]" }

// ParseSecret parses whsec_ and 24 to 64 bytes in Base64. The error is of kind InvalidArgument and begins with the name of the field.
func ParseSecret(field, text string) (Secret, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, secretPrefix))
	if !strings.HasPrefix(text, secretPrefix) || err != nil || len(key) < 24 || len(key) > 64 {
		return Secret{}, errs.New(errs.InvalidArgument, "%s: is not %s and 24 to 64 bytes in Base64", field, secretPrefix)
	}
	return Secret{string(key)}, nil
}

// NewSecret returns the text of a new secret.
func NewSecret() string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // It never fails.
	return secretPrefix + base64.StdEncoding.EncodeToString(key[:])
}

// Webhook makes a request a webhook by the specification of Standard Webhooks: receivers find out by the id what they have had, and
// by the signature and the timestamp of the attempt that it is from here and is new.
type Webhook struct {
	ID      string   // the same for all attempts; without a full stop
	Secrets []Secret // each signs, so that a receiver may know the new one or the old one; none leaves the signature away
}

// sign sets the header fields of an attempt.
func (w *Webhook) sign(header http.Header, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	header[headerID], header[headerTimestamp] = []string{w.ID}, []string{timestamp}
	var signatures []string
	for _, s := range w.Secrets {
		mac := hmac.New(sha256.New, []byte(s.key))
		_, _ = mac.Write([]byte(w.ID + "." + timestamp + "."))
		_, _ = mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if signatures != nil {
		header[headerSignature] = []string{strings.Join(signatures, " ")}
	}
}
