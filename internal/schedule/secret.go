package schedule

import (
	"context"
	"maps"

	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// What a request keeps secret, its signing secret and the values of its headers, is sealed wherever it is kept: in schedules, and in
// their changes. It is opened to be sent, and to be validated with what an update leaves as it was.

// redacted stands for the values of headers, which are not shown.
const redacted = "[redacted]"

// clone returns a copy that shares nothing that an edit may change.
func (a Action) clone() Action {
	if a.HTTP != nil {
		copied := *a.HTTP
		copied.Headers = maps.Clone(copied.Headers)
		a.HTTP = &copied
	}
	return a
}

// shown returns the action as clients see it.
func (a Action) shown() Action {
	a = a.clone()
	if a.HTTP != nil {
		a.HTTP.Secret = ""
		for name := range a.HTTP.Headers {
			a.HTTP.Headers[name] = redacted
		}
	}
	return a
}

// keepSecrets returns the action with the secrets of the one before, where it has none of its own or what stands for them.
func (a Action) keepSecrets(before Action) Action {
	if a.HTTP == nil || before.HTTP == nil {
		return a
	}
	a = a.clone()
	if a.HTTP.Secret == "" {
		a.HTTP.Secret = before.HTTP.Secret
	}
	for name, value := range a.HTTP.Headers {
		if old, had := before.HTTP.Headers[name]; had && value == redacted {
			a.HTTP.Headers[name] = old
		}
	}
	return a
}

func purpose(tenant string) string { return "schedule of " + tenant }

// seal returns the definition of a tenant's schedule with its secrets sealed.
func (s *Service) seal(tenant string, d Definition) Definition {
	d.Action = d.Action.clone()
	if h := d.Action.HTTP; h != nil {
		h.Secret = s.secrets.Seal(purpose(tenant), h.Secret)
		for name, value := range h.Headers {
			h.Headers[name] = s.secrets.Seal(purpose(tenant), value)
		}
	}
	return d
}

// open returns the action of a tenant's schedule with its secrets, and without those that cannot be opened, for which there is an
// error of kind FailedPrecondition.
func (s *Service) open(tenant string, a Action) (opened Action, lost error) {
	a = a.clone()
	h := a.HTTP
	if h == nil {
		return a, nil
	}
	secret, err := s.secrets.Open(purpose(tenant), h.Secret)
	if h.Secret = secret; err != nil {
		lost = errs.Wrap(err, errs.FailedPrecondition, "http.signing_secret: it cannot be decrypted any longer; set it anew")
	}
	for name, sealed := range h.Headers {
		value, err := s.secrets.Open(purpose(tenant), sealed)
		if h.Headers[name] = value; err != nil {
			delete(h.Headers, name)
			lost = errs.Wrap(err, errs.FailedPrecondition, "http.headers: %q cannot be decrypted any longer; set it anew", name)
		}
	}
	return a, lost
}

// lacks reports whether the action would keep a secret of the one before that is lost.
func (a Action) lacks(before Action) bool {
	if a.HTTP == nil || before.HTTP == nil {
		return false
	}
	if a.HTTP.Secret == "" && before.HTTP.Secret != "" {
		return true
	}
	for name, value := range a.HTTP.Headers {
		if _, had := before.HTTP.Headers[name]; had && value == redacted {
			return true
		}
	}
	return false
}

// sealAnew seals the secrets of all tenants that another key than the first has sealed, or none, so that keys can be replaced.
func (s *Service) sealAnew(ctx context.Context) error {
	if !s.secrets.Any() {
		return nil
	}
	for _, table := range []string{"schedules", "schedule_changes"} {
		var last sealedRow
		for more := true; more; {
			err := s.system.InTx(ctx, func(tx *pg.Tx) error {
				rows, err := lockSealed(ctx, tx, table, last, sealBatch)
				if more = len(rows) == sealBatch; err != nil || len(rows) == 0 {
					return err
				}
				last = rows[len(rows)-1]
				for _, r := range rows {
					if err := s.sealRow(ctx, tx, table, r); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sealRow seals the secrets of a definition anew, if they are not current. One that cannot be opened stays as it is.
func (s *Service) sealRow(ctx context.Context, tx *pg.Tx, table string, r sealedRow) error {
	h := r.definition.Action.HTTP
	current := s.secrets.Current(h.Secret)
	for _, value := range h.Headers {
		current = current && s.secrets.Current(value)
	}
	if current {
		return nil
	}
	opened, lost := s.open(r.tenant, r.definition.Action)
	if lost != nil {
		s.log.Warn("the secrets of a schedule cannot be sealed anew", zap.String("tenant", r.tenant), zap.String("id", r.id), zap.Error(lost))
		return nil
	}
	r.definition.Action = opened
	r.definition = s.seal(r.tenant, r.definition)
	return updateSealed(ctx, tx, table, r)
}
