package message

import (
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"time"

	"plinth/internal/errs"
	"plinth/internal/outbound"
)

// Defaults and limits of a push.
const (
	defaultPushTimeout     = 30 * time.Second
	defaultPushOutstanding = 16
	// secretOverlap is for how long the secret before signs too unless the client says otherwise, and maxSecretOverlap is the longest.
	secretOverlap    = 24 * time.Hour
	maxSecretOverlap = 30 * 24 * time.Hour
)

// Push says where the workers deliver the messages of a queue to. Its secrets are sealed in the database, and open in between.
type Push struct {
	URL            string            `json:"url"`
	Timeout        time.Duration     `json:"timeout"`
	MaxOutstanding int               `json:"max_outstanding"` // of each worker
	Headers        map[string]string `json:"headers,omitempty"`
	Secret         string            `json:"secret"` // "" has the service make one
	Previous       string            `json:"previous,omitempty"`
	PreviousUntil  time.Time         `json:"previous_until,omitzero"` // until when the secret before signs too
	RetryRejected  bool              `json:"retry_rejected,omitempty"`
}

func (p *Push) clone() *Push {
	if p == nil {
		return nil
	}
	copied := *p
	copied.Headers = maps.Clone(p.Headers)
	return &copied
}

// size returns about how many bytes it takes in a reply.
func (p *Push) size() int {
	if p == nil {
		return 0
	}
	n := len(p.URL)
	for name := range p.Headers {
		n += len(name) + len(redacted)
	}
	return n
}

// Replace sets the push of a policy in place of the one before, of which it keeps the secrets that wanted does not have. nil ends it.
func (p *Policy) Replace(wanted *Push) {
	before := p.Push
	p.Push = wanted.clone()
	if before == nil || wanted == nil {
		return
	}
	if p.Push.Secret == "" {
		p.Push.Secret = before.Secret
	}
	if p.Push.PreviousUntil.IsZero() {
		p.Push.PreviousUntil = before.PreviousUntil
	}
	p.Push.Previous = before.Previous
}

// EditPush changes a part of the push. A policy without one gets one that lacks its URL.
func (p *Policy) EditPush(edit func(*Push)) {
	p.Push = p.Push.clone()
	if p.Push == nil {
		p.Push = &Push{}
	}
	edit(p.Push)
}

// preparePush completes and validates the push of a policy that replaces before, which is open. now is when. Errors: InvalidArgument;
// FailedPrecondition for a secret that it keeps and that is lost.
func (s *Service) preparePush(before, p *Push, now time.Time) error {
	if p == nil || before != nil && reflect.DeepEqual(before, p) {
		return nil
	}
	p.inherit(before, now)
	if p.Secret == "" {
		p.Secret = outbound.NewSecret()
	}
	longest := s.outbound.Timeout()
	if p.Timeout == 0 {
		p.Timeout = min(defaultPushTimeout, longest)
	}
	if p.MaxOutstanding == 0 {
		p.MaxOutstanding = defaultPushOutstanding
	}
	if p.Timeout > longest {
		return errs.New(errs.InvalidArgument, "push.timeout: %v is more than %v, which OUTBOUND_TIMEOUT allows", p.Timeout, longest)
	}
	if p.PreviousUntil.After(now.Add(maxSecretOverlap)) {
		return errs.New(errs.InvalidArgument, "push.previous_secret_expire_time: is more than %v ahead", maxSecretOverlap)
	}
	if p.URL == "" {
		return errs.New(errs.InvalidArgument, "push.url: is required; a part of a push alone is changed by its path in update_mask, such as push.timeout")
	}
	_, err := s.parsePush(p, now)
	return err
}

// inherit takes over what a new push keeps of the one before.
func (p *Push) inherit(before *Push, now time.Time) {
	if before == nil {
		p.Previous, p.PreviousUntil = "", time.Time{}
		return
	}
	for name, value := range p.Headers {
		if old, had := before.Headers[name]; had && value == redacted {
			p.Headers[name] = old
		}
	}
	if p.Secret != before.Secret {
		p.Previous = before.Secret
		if p.PreviousUntil.IsZero() || p.PreviousUntil.Equal(before.PreviousUntil) {
			p.PreviousUntil = now.Add(secretOverlap)
		}
	}
	if p.Previous == "" || p.Previous == lostSecret || !p.PreviousUntil.After(now) {
		p.Previous, p.PreviousUntil = "", time.Time{}
	}
}

// target is a push that is ready to call.
type target struct {
	url           *url.URL
	header        http.Header
	secrets       []outbound.Secret
	previous      []outbound.Secret
	previousUntil time.Time
	timeout       time.Duration
	retryRejected bool
	most          int
}

// parsePush returns what an open push calls. Errors: InvalidArgument; FailedPrecondition for a secret that is lost.
func (s *Service) parsePush(p *Push, now time.Time) (*target, error) {
	const lost = "%s: it cannot be decrypted any longer; set it anew"
	t := &target{timeout: p.Timeout, retryRejected: p.RetryRejected, most: p.MaxOutstanding, previousUntil: p.PreviousUntil}
	var err error
	if t.url, err = s.outbound.ParseURL("push.url", p.URL); err != nil {
		return nil, err
	}
	for _, value := range p.Headers {
		if value == lostSecret {
			return nil, errs.New(errs.FailedPrecondition, lost, "push.headers")
		}
	}
	if t.header, err = outbound.ParseHeaders("push.headers", p.Headers); err != nil {
		return nil, err
	}
	if p.Secret == lostSecret {
		return nil, errs.New(errs.FailedPrecondition, lost, "push.secret")
	}
	secret, err := outbound.ParseSecret("push.secret", p.Secret)
	if err != nil {
		return nil, err
	}
	t.secrets = []outbound.Secret{secret}
	if p.Previous != "" && p.Previous != lostSecret && p.PreviousUntil.After(now) {
		previous, err := outbound.ParseSecret("push.secret", p.Previous)
		if err != nil {
			return nil, err
		}
		t.previous = []outbound.Secret{secret, previous}
	}
	return t, nil
}

// sign returns the secrets that sign a call.
func (t *target) sign(now time.Time) []outbound.Secret {
	if t.previous != nil && now.Before(t.previousUntil) {
		return t.previous
	}
	return t.secrets
}
