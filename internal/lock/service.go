package lock

import (
	"context"
	"os"
	"strconv"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

// channel is that of notifications that it is somebody's turn.
const channel = "plinth_locks"

// Service implements the rules of locks. Its Run must be running.
type Service struct {
	db       *pg.DB     // acts for the tenant of the context
	system   *pg.System // acts for all tenants
	notifier *pg.Notifier
	fast     *fast
	process  uuid.UUID // this one, of all that wait for clients
	owner    string    // of locks that this process takes for itself
	waiters  waiters
	keeper   *keeper
	heard    chan struct{} // has a token when notifications may have been lost
	quotas   quotas
	room     *room
	metrics  *metrics
	log      *zap.Logger
}

// Config configures a Service. The connections are of separate classes, so that they cannot starve each other.
type Config struct {
	DB       *pg.DB     // for calls
	System   *pg.System // for heartbeats, renewals and sweeps
	Notifier *pg.Notifier
	Redis    redis.UniversalClient // for fast locks
	Limits   Limits
	Log      *zap.Logger
}

// Limits apply to tenants without quotas of their own; 0 means no limit. Package app reads them from the environment.
type Limits struct {
	Locks   int64 `env:"MAX_LOCKS" envDefault:"100000" help:"most locks of a tenant that has no quota of its own: those that somebody has, or had in the last minute; roughly; 0 is no limit"`
	Waiters int64 `env:"MAX_WAITERS" envDefault:"1000" help:"most clients of a tenant that wait for locks, likewise"`
}

// Check requires that no limit is negative.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.Locks >= 0, "MAX_LOCKS", "must not be negative")
	want(l.Waiters >= 0, "MAX_WAITERS", "must not be negative")
}

// New returns a Service. It must be called before the Run of the Notifier.
func New(c Config) *Service {
	s := &Service{
		db: c.DB, system: c.System, notifier: c.Notifier, fast: newFast(c.Redis), process: uuid.New(), owner: processName(),
		heard: make(chan struct{}, 1), quotas: newQuotas(c.Limits), log: c.Log,
	}
	s.room = &room{quotas: s.quotas}
	s.metrics = newMetrics(&s.waiters)
	s.keeper = newKeeper(c.System, c.Log, s.metrics)
	c.Notifier.Subscribe(channel, func(payload string) {
		if payload == "" {
			loop.Signal(s.heard)
			return
		}
		s.waiters.signal(parsePlace(payload))
	})
	return s
}

// processName is what people find a process by.
func processName() string {
	host, err := os.Hostname()
	if err != nil || checkText("owner", host) != nil {
		host = "process"
	}
	return host[:min(len(host), maxText/2)] + ":" + strconv.Itoa(os.Getpid())
}

// Run renews the leases of With and looks for the turns of those who wait, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer observe.LogPanic(s.log); s.keeper.run(ctx); return nil })
	group.Go(func() error { defer observe.LogPanic(s.log); s.beat(ctx); return nil })
	return group.Wait()
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota { return []*tenant.Quota{s.quotas.locks, s.quotas.waiters} }

// Metrics returns the metrics of this domain.
func (s *Service) Metrics() []prometheus.Collector { return s.metrics.all() }
