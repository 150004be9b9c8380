package note

import (
	"context"
	"time"

	"plinth/internal/loop"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

// expiryInterval is how often notes that have expired are deleted.
const expiryInterval = time.Minute

// Service holds the rules of notes.
type Service struct {
	db      *pg.DB
	system  *pg.System
	publish func(ctx context.Context, tx *pg.Tx, topic, key string, body []byte) error
	quota   *tenant.Quota
}

// Config is what the service is made of.
type Config struct {
	DB     *pg.DB     // for calls
	System *pg.System // for its job
	Limits Limits
	// Publish publishes an event when tx is committed. Errors: NotFound where nobody listens to its topic.
	Publish func(ctx context.Context, tx *pg.Tx, topic, key string, body []byte) error
}

// Limits are what tenants without quotas of their own may have; 0 is no limit.
type Limits struct {
	Notes int64 `env:"MAX_NOTES" envDefault:"1000" help:"most notes of a tenant that has no quota of its own; 0 is no limit"`
}

// Check wants limits that are not negative.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.Notes >= 0, "MAX_NOTES", "must not be negative")
}

// New returns the service.
func New(c Config) *Service {
	return &Service{
		db: c.DB, system: c.System, publish: c.Publish,
		quota: tenant.NewQuota(tenant.QuotaConfig{Name: "notes", What: "notes", Most: c.Limits.Notes}),
	}
}

// Quotas are those of this domain.
func (s *Service) Quotas() []*tenant.Quota { return []*tenant.Quota{s.quota} }

// Jobs are this domain's own.
func (s *Service) Jobs() []loop.Job {
	return []loop.Job{{Name: "note-expiry", About: "deletes notes that have expired", Interval: expiryInterval, Run: s.expire}}
}

// expire deletes the notes of all tenants that have expired, in small transactions.
func (s *Service) expire(ctx context.Context) error {
	for {
		n, err := deleteExpired(ctx, s.system)
		if err != nil || n < expiryBatch {
			return err
		}
	}
}
