package message

import (
	"context"
	"time"

	"go.uber.org/zap"

	"plinth/internal/pg"
)

// What a push keeps secret, what signs its calls and the values of its headers, is sealed where it is kept. It is opened to be
// sent, and to be validated with what an update leaves as it was.

// redacted stands for the values of headers, which are not shown.
const redacted = "[redacted]"

// lostSecret stands for a secret that cannot be opened. No client can send it.
const lostSecret = "\x00lost"

// shown returns the push as clients see it, with its secret if this call has set it.
func (p *Push) shown(secret string) *Push {
	if p == nil {
		return nil
	}
	p = p.clone()
	p.Secret, p.Previous = secret, ""
	if !p.PreviousUntil.After(time.Now()) {
		p.PreviousUntil = time.Time{}
	}
	for name := range p.Headers {
		p.Headers[name] = redacted
	}
	return p
}

func pushPurpose(tenant string) string { return "push of " + tenant }

// sealPush returns the push of a tenant with its secrets sealed.
func (s *Service) sealPush(tenant string, p *Push) *Push {
	return p.eachSecret(func(secret string) string { return s.secrets.Seal(pushPurpose(tenant), secret) })
}

// openPush returns a sealed push with its secrets; lostSecret stands for those that cannot be opened.
func (s *Service) openPush(tenant string, p *Push) *Push {
	return p.eachSecret(func(sealed string) string {
		secret, err := s.secrets.Open(pushPurpose(tenant), sealed)
		if err != nil {
			return lostSecret
		}
		return secret
	})
}

// eachSecret returns a copy with each secret replaced.
func (p *Push) eachSecret(replace func(string) string) *Push {
	if p = p.clone(); p == nil {
		return nil
	}
	p.Secret, p.Previous = replace(p.Secret), replace(p.Previous)
	for name, value := range p.Headers {
		p.Headers[name] = replace(value)
	}
	return p
}

// pushSecret returns the secret of a push that was just set, for the one reply that shows it; "" if it was not.
func pushSecret(before, p *Push) string {
	if p == nil || before != nil && before.Secret == p.Secret {
		return ""
	}
	return p.Secret
}

// sealAnew seals the secrets of all tenants that another key than the first has sealed, or none, so that keys can be replaced. One
// that cannot be opened stays as it is.
func (s *Service) sealAnew(ctx context.Context) error {
	if !s.secrets.Any() {
		return nil
	}
	queues, err := selectPushes(ctx, s.system)
	if err != nil {
		return err
	}
	for q := range queues {
		if err := s.sealQueueAnew(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) sealQueueAnew(ctx context.Context, q tenantQueue) error {
	return s.system.InTx(ctx, func(tx *pg.Tx) error {
		p, err := lockPush(ctx, tx, q)
		if err != nil || p == nil {
			return err
		}
		if p.has(func(sealed string) bool { return !s.secrets.Current(sealed) }) {
			opened := s.openPush(q.tenant, p)
			if opened.has(func(secret string) bool { return secret == lostSecret }) {
				s.log.Warn("the secrets of a push cannot be sealed anew", zap.Inline(q))
				return nil
			}
			return updatePush(ctx, tx, q, s.sealPush(q.tenant, opened))
		}
		return nil
	})
}

// has reports whether there is such a secret.
func (p *Push) has(such func(string) bool) (found bool) {
	p.eachSecret(func(secret string) string {
		found = found || such(secret)
		return secret
	})
	return found
}
