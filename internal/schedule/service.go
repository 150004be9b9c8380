package schedule

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/cron"
	"plinth/internal/loop"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/outbound"
	"plinth/internal/pg"
	"plinth/internal/seal"
	"plinth/internal/tenant"
)

// A notification is a hint that there is something new to read. Its payload is one of these.
const (
	channel      = "plinth_schedules"
	newTicks     = "ticks"     // schedules may be due before all others
	newRuns      = "runs"      // likewise runs
	newCancelled = "cancelled" // running runs are to end
)

// Service implements the rules of schedules and their runs.
type Service struct {
	db       *pg.DB     // acts for the tenant of the context
	system   *pg.System // acts for all tenants
	messages *message.Service
	outbound *outbound.Client
	secrets  seal.Keys
	zones    cron.Zones
	notifier *pg.Notifier
	log      *zap.Logger
	worker   string
	lease    time.Duration
	drain    time.Duration
	jobs     jobs
	own      []loop.Job // of the service itself, by name
	redis    redis.UniversalClient
	quotas   quotas
	metrics  *metrics
	tracing  *observe.Tracing

	ticksDue, runsDue turns
	ticks, runs       *pg.Due
	at                *attempts // that this process works at
}

// Config configures a Service.
type Config struct {
	DB       *pg.DB     // for calls
	System   *pg.System // for the workers
	Notifier *pg.Notifier
	Messages *message.Service
	Outbound *outbound.Client // sends the HTTP requests of runs
	Secrets  seal.Keys        // that what requests keep secret is sealed with
	Redis    redis.UniversalClient
	Jobs     []Job // that schedules can run by name
	Limits   Limits
	Worker   string           // the name of this process in the runs that it works at
	Drain    time.Duration    // how long running jobs may go on after the end of Work's context
	Lease    time.Duration    // after which the runs of a worker that says nothing are another's; 0 is 15 s
	Tracing  *observe.Tracing // nil makes no spans
	Log      *zap.Logger
}

// Limits apply to tenants without quotas of their own; 0 means no limit. Package app reads them from the environment.
type Limits struct {
	Schedules int64 `env:"MAX_SCHEDULES" envDefault:"10000" help:"most schedules of a tenant that has no quota of its own; 0 is no limit"`
	Runs      int64 `env:"MAX_RUNS_PER_DAY" envDefault:"0" help:"most runs of a tenant in 24 hours, likewise; roughly, several processes may pass it for a moment"`
	Attempts  int64 `env:"MAX_RUNNING" envDefault:"64" help:"most jobs and HTTP requests that a process runs at a time"`
}

// Check requires that the limits make sense.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.Schedules >= 0, "MAX_SCHEDULES", "must not be negative")
	want(l.Runs >= 0, "MAX_RUNS_PER_DAY", "must not be negative")
	want(l.Attempts >= 1, "MAX_RUNNING", "must be at least 1")
}

// quotas are the quotas of this domain.
type quotas struct{ schedules, runs *tenant.Quota }

// runsFresh is for how long the number of runs of a tenant is cached: reading it for each batch would cost a statement.
const runsFresh = time.Second

const defaultLease = 15 * time.Second

// New returns a Service. It must be called before the Run of the Notifier.
func New(c Config) *Service {
	s := &Service{
		db: c.DB, system: c.System, messages: c.Messages, outbound: c.Outbound, secrets: c.Secrets, redis: c.Redis, notifier: c.Notifier, log: c.Log, worker: c.Worker, lease: c.Lease, drain: c.Drain,
		jobs: newJobs(c.Jobs), metrics: newMetrics(), tracing: c.Tracing,
		quotas: quotas{
			schedules: tenant.NewQuota(tenant.QuotaConfig{Name: "schedules", What: "schedules", Most: c.Limits.Schedules}),
			runs:      tenant.NewQuota(tenant.QuotaConfig{Name: "runs_per_day", What: "runs within 24 hours", Most: c.Limits.Runs, Fresh: runsFresh}),
		},
		ticksDue: turns{table: "schedules", column: "next_due_at"},
		runsDue:  turns{table: "schedule_runs", column: "next_at"},
	}
	if s.lease == 0 {
		s.lease = defaultLease
	}
	s.at = newAttempts(int(max(1, c.Limits.Attempts)))
	s.ticks, s.runs = s.newTicks(), s.newRuns()
	s.notifier.Subscribe(channel, func(payload string) {
		if payload == newCancelled || payload == "" {
			s.at.hear()
		}
	})
	return s
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota { return []*tenant.Quota{s.quotas.schedules, s.quotas.runs} }

// Work fires schedules, works at their runs and runs the service's own jobs until ctx ends; jobs that run then may go on for the drain, and their runs start
// again elsewhere if they are not done.
func (s *Service) Work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer observe.LogPanic(s.log); return s.ticks.Run(ctx) })
	group.Go(func() error { defer observe.LogPanic(s.log); return s.runs.Run(ctx) })
	group.Go(func() error { defer observe.LogPanic(s.log); s.keep(ctx); return nil })
	group.Go(func() error { defer observe.LogPanic(s.log); s.followZonesNow(ctx); return nil })
	group.Go(func() error { defer observe.LogPanic(s.log); return s.runOwn(ctx) })
	return group.Wait()
}

// wakeTicks notifies the workers, once tx is committed, that schedules may be due before all others; wakeRuns and wakeCancelled
// likewise.
func (s *Service) wakeTicks(tx *pg.Tx)     { s.wake(tx, newTicks) }
func (s *Service) wakeRuns(tx *pg.Tx)      { s.wake(tx, newRuns) }
func (s *Service) wakeCancelled(tx *pg.Tx) { s.wake(tx, newCancelled) }

func (s *Service) wake(tx *pg.Tx, payload string) {
	tx.AfterCommit(func() { s.notifier.Notify(channel, payload) })
}
