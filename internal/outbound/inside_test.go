package outbound

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestSign signs the example of the specification's reference libraries.
func TestSign(t *testing.T) {
	t.Parallel()
	secret, err := ParseSecret("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{}
	w := Webhook{ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Secrets: []Secret{secret}}
	w.sign(header, time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got, want := header.Get("webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestBreakersAreBounded: hosts that are called once cost no memory for ever, and those in use keep their breaker.
func TestBreakersAreBounded(t *testing.T) {
	t.Parallel()
	b := newBreakers()
	used := b.of("tenant", "used")
	for i := range 2 * maxBreakers {
		b.of("tenant", fmt.Sprint(i))
		if b.of("tenant", "used") != used {
			t.Fatal("a breaker in use was forgotten")
		}
	}
	if len(b.byKey) != maxBreakers || b.order.Len() != maxBreakers {
		t.Errorf("%d and %d breakers, want %d", len(b.byKey), b.order.Len(), maxBreakers)
	}
}

// A call that a breaker lets try whether a host is back, and that tells nothing of it, leaves no host closed for ever.
func TestUnknownOutcomeOfATry(t *testing.T) {
	t.Parallel()
	b := newBreakers().of("acme", "host")
	b.HalfOpen()
	if !b.TryAcquirePermit() {
		t.Fatal("the breaker lets nothing try")
	}
	b.settle(unknown)
	if !b.IsOpen() {
		t.Error("the breaker waits for a call that has ended")
	}
	b.HalfOpen()
	if !b.TryAcquirePermit() {
		t.Error("the breaker lets nothing try again")
	}
	b.settle(succeeded)
	if !b.IsClosed() {
		t.Error("the breaker stays open")
	}
	b.settle(unknown)
	if !b.IsClosed() {
		t.Error("a call that tells nothing opens it")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, "86400": time.Hour, "99999999999999999999999": time.Hour,
		"Thu, 01 Jan 1970 00:00:00 GMT": 0, "Fri, 31 Dec 9999 23:59:59 GMT": time.Hour,
		"": -1, "-1": -1, "+1": -1, "1.5": -1, "soon": -1,
	} {
		after, says := (&Reply{Header: http.Header{"Retry-After": {text}}}).RetryAfter(time.Hour)
		if !says {
			after = -1
		}
		if after != want {
			t.Errorf("%q: %v, want %v", text, after, want)
		}
	}
}
