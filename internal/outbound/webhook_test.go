package outbound_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/outbound"
)

// TestWebhook: each attempt of a webhook has one id, its own timestamp and a signature by each secret, which receivers can check.
func TestWebhook(t *testing.T) {
	t.Parallel()
	texts := []string{outbound.NewSecret(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	var mu sync.Mutex
	var attempts []string
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id, timestamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
		at, err := strconv.ParseInt(timestamp, 10, 64)
		if err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
			t.Errorf("the timestamp is %q", timestamp)
		}
		var want []string
		for _, text := range texts {
			key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
			mac := hmac.New(sha256.New, key)
			_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
			want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		}
		if got := r.Header.Get("webhook-signature"); got != strings.Join(want, " ") {
			t.Errorf("the signature is %q, want %q", got, want)
		}
		mu.Lock()
		defer mu.Unlock()
		attempts = append(attempts, id)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	var secrets []outbound.Secret
	for _, text := range texts {
		s, err := outbound.ParseSecret("secret", text)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, s)
	}
	r := get(t, server.URL)
	r.Method, r.Body, r.Webhook = http.MethodPost, []byte(`{"test": 2432232314}`), &outbound.Webhook{ID: "msg_1", Secrets: secrets}
	r.Retry = outbound.Retry{Attempts: 2, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}
	reply, err := newClient(t, "127.0.0.0/8").Do(context.Background(), r)
	wantStatus(t, reply, err, http.StatusServiceUnavailable)
	if fmt.Sprint(attempts) != "[msg_1 msg_1]" {
		t.Errorf("the attempts had the ids %v", attempts)
	}
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ", "whsec_!fKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + strings.Repeat("A", 100)} {
		_, err := outbound.ParseSecret("signing_secret", bad)
		if !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "signing_secret: ") || bad != "" && bad != "whsec_" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	s, err := outbound.ParseSecret("signing_secret", outbound.NewSecret())
	if err != nil || fmt.Sprintf("%v %+v %s %#v", s, s, s, s) != strings.TrimSuffix(strings.Repeat("[redacted] ", 4), " ") {
		t.Errorf("%v, %v", s, err)
	}
}
