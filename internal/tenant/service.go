package tenant

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// Service implements the rules of tenants and their keys. Its Run must be running.
type Service struct {
	db        *pg.DB // for what tenants have
	system    *pg.System
	directory *pg.System // to look up callers
	log       *zap.Logger
	now       func() time.Time
	scopes    []string // that methods name
	domains   []string // "queues.*" and so on
	admin     auth.KeyHash
	quotas    []*Quota
	deletions []Deletion
	deleting  *pg.Due
	notifier  *pg.Notifier

	snapshot atomic.Pointer[snapshot]
	start    time.Time
	changed  atomic.Int64  // when this process last changed something, in terms of elapsed
	called   atomic.Int64  // roughly when the last call came, in terms of elapsed
	heard    chan struct{} // has a token after a notification of a change
	asking   singleflight.Group
	used     used
	actives  actives
	metrics  *metrics
}

// Config configures a Service.
type Config struct {
	DB        *pg.DB       // for calls
	Notifier  *pg.Notifier // delivers notifications of changes; must run while Run does
	Directory *pg.System   // to look up callers; separate, so that calls do not have to wait for the connections of DB
	Scopes    []string     // that methods name
	Admin     auth.KeyHash // of the administrator's key in the configuration; zero means none
	Log       *zap.Logger
}

// New returns a Service. It must be called before the Run of the Notifier.
func New(c Config) *Service {
	s := &Service{
		db: c.DB, system: c.DB.System(), directory: c.Directory, log: c.Log,
		now: time.Now, scopes: c.Scopes, admin: c.Admin, start: time.Now(), heard: make(chan struct{}, 1), metrics: newMetrics(),
		actives: actives{since: -1},
	}
	s.notifier, s.deleting = c.Notifier, s.newDeleting(c.Notifier)
	c.Notifier.Subscribe(channel, func(payload string) {
		if payload == changed || payload == "" {
			loop.Signal(s.heard)
		}
	})
	for _, scope := range c.Scopes {
		if domain, _, found := strings.Cut(scope, "."); found && !slices.Contains(s.domains, domain+".*") {
			s.domains = append(s.domains, domain+".*")
		}
	}
	s.snapshot.Store(s.newSnapshot(-1, -time.Hour)) // Never confirmed.
	return s
}

// Register adds the quotas of a domain. It must be called before Run and the first call.
func (s *Service) Register(quotas ...*Quota) { s.quotas = append(s.quotas, quotas...) }

// Run keeps the cached keys and tenants up to date, and records when keys were used, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer observe.LogPanic(s.log); return s.follow(ctx) })
	group.Go(func() error { defer observe.LogPanic(s.log); s.writeUsed(ctx, usedEvery); return nil })
	return group.Wait()
}

// Jobs are this domain's own.
func (s *Service) Jobs() []loop.Job {
	return []loop.Job{{Name: "tenant-usage", About: "adds up what tenants have of what is counted", Interval: foldEvery, Run: s.foldUsage}}
}

// Work goes on with deletions of tenants until ctx ends. It is for workers, once the schema is there.
func (s *Service) Work(ctx context.Context) error { return s.deleting.Run(ctx) }

// CreateTenant creates a tenant without any data. It first removes rows that late calls left behind after a tenant of the
// same name was deleted. Errors: AlreadyExists, also while a tenant of that name is being deleted; InvalidArgument for an
// invalid name and an unknown quota.
func (s *Service) CreateTenant(ctx context.Context, t Tenant) (made Tenant, err error) {
	if err := checkNew(t.Name); err != nil {
		return Tenant{}, err
	}
	if err := checkDisplayName(t.DisplayName); err != nil {
		return Tenant{}, err
	}
	if err := s.checkQuotas(t.Quotas); err != nil {
		return Tenant{}, err
	}
	err = s.change(ctx, func(tx *pg.Tx) error {
		created, err := insertTenant(ctx, tx, t)
		if err != nil {
			return err
		}
		if !created {
			return errs.New(errs.AlreadyExists, "name: the tenant %q exists already, or is being deleted", t.Name)
		}
		if err := deleteAll(ctx, tx, t.Name); err != nil {
			return err
		}
		if err := updateQuotas(ctx, tx, t); err != nil {
			return err
		}
		made, err = selectTenant(ctx, tx, t.Name)
		return err
	})
	return made, err
}

// change runs fn in a transaction that changes who may do what. Other processes notice the change by the number that it
// increments; this process notices it at once.
func (s *Service) change(ctx context.Context, fn func(tx *pg.Tx) error) error {
	return s.system.InTx(ctx, func(tx *pg.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		tx.AfterCommit(func() { s.changed.Store(int64(s.elapsed())) })
		return countChange(ctx, tx)
	})
}

func (s *Service) checkQuotas(quotas map[string]int64) error {
	for name, most := range quotas {
		if most < 0 {
			return errs.New(errs.InvalidArgument, "quotas: %.64q is %d; it is 0 at least, which is no limit", name, most)
		}
		if !slices.ContainsFunc(s.quotas, func(q *Quota) bool { return q.Name == name }) {
			var known []string
			for _, q := range s.quotas {
				known = append(known, q.Name)
			}
			return errs.New(errs.InvalidArgument, "quotas: %.64q is not known; there are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// GetTenant returns a tenant with its usage, and with the number of remaining rows if it is being deleted. Errors:
// NotFound.
func (s *Service) GetTenant(ctx context.Context, name string) (Tenant, error) {
	if checkName(name) != nil {
		return Tenant{}, errNoTenant(name)
	}
	t, err := selectTenant(ctx, s.system, name)
	if err != nil {
		return Tenant{}, err
	}
	if t.isDeleted() {
		if t.Remaining, err = countRows(ctx, s.system, name, maxRemaining); err != nil {
			return Tenant{}, err
		}
	}
	t.Usage = map[string]int64{}
	for _, q := range s.quotas {
		if q.Uncounted {
			continue
		}
		if t.Usage[q.Name], _, err = selectUsage(ctx, s.system, name, q.Name); err != nil {
			return Tenant{}, err
		}
	}
	return t, nil
}

// ListTenants lists tenants by name, in pages as resource.List describes them. Errors: InvalidArgument for a token that
// is not of this list.
func (s *Service) ListTenants(ctx context.Context, size int, token string) (tenants []Tenant, next string, err error) {
	list := resource.List[Tenant, string]{
		Of:       []any{"tenants"},
		Position: func(t Tenant) string { return t.Name },
		Parse:    func(name string) (string, error) { return name, checkName(name) },
		Select: resource.OneMore(func(after string, limit int) ([]Tenant, error) {
			return selectTenants(ctx, s.system, after, limit)
		}),
	}
	return list.Page(size, token)
}

// UpdateTenant changes a tenant. change is called with the current tenant. Errors: NotFound; InvalidArgument for an
// unknown quota; FailedPrecondition for disabling the default tenant, and for a tenant that is being deleted.
func (s *Service) UpdateTenant(ctx context.Context, name string, change func(*Tenant)) (t Tenant, err error) {
	if checkName(name) != nil {
		return Tenant{}, errNoTenant(name)
	}
	err = s.change(ctx, func(tx *pg.Tx) error {
		if t, err = lockTenant(ctx, tx, name); err != nil {
			return err
		}
		if t.isDeleted() {
			return errDeleted(name)
		}
		before := maps.Clone(t.Quotas)
		change(&t)
		t.Name = name
		if t.Disabled && name == auth.DefaultTenant {
			return errs.New(errs.FailedPrecondition, "disabled: the tenant %q is always there", name)
		}
		if err := checkDisplayName(t.DisplayName); err != nil {
			return err
		}
		if !maps.Equal(before, t.Quotas) { // Unknown quotas of an earlier release may stay.
			if err := s.checkQuotas(t.Quotas); err != nil {
				return err
			}
		}
		if err := updateQuotas(ctx, tx, t); err != nil {
			return err
		}
		return updateTenant(ctx, tx, t)
	})
	if err != nil {
		return Tenant{}, err
	}
	return t, nil
}

// left returns what a tenant has of what the quotas count, such as "2 queues". Transactions that take from an exact quota
// wait until this one ends.
func (s *Service) left(ctx context.Context, tx *pg.Tx, name string) (left []string, err error) {
	for _, q := range s.quotas {
		if q.Uncounted || q.Passing {
			continue
		}
		if q.Fresh == 0 {
			if err := lockQuota(ctx, tx, name, q.Name); err != nil {
				return nil, err
			}
		}
		n, _, err := selectUsage(ctx, tx, name, q.Name)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			left = append(left, fmt.Sprintf("%d %s", n, q.What))
		}
	}
	return left, nil
}
