package channel

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

// Service implements the rules of channels. Its Run must be running.
type Service struct {
	links   *links
	scripts scripts
	limits  Limits
	quotas  quotas
	db      *pg.DB
	holder  func(ctx context.Context, id, tenant string) (*auth.Principal, error)
	secrets secrets
	reads   chan struct{} // is full while as many streams read histories as may
	metrics *metrics
	log     *zap.Logger

	mu    sync.Mutex
	feeds map[string]*feed // by tenant

	running struct {
		sync.Mutex
		ctx context.Context // nil unless Run runs
		all sync.WaitGroup
	}
}

// Config configures a Service.
type Config struct {
	Redis redis.UniversalClient
	DB    *pg.DB // has the secrets that URLs are made with
	// Holder returns a principal that acts for a tenant, by the id that it had when it made a URL. Errors: Unauthenticated or
	// PermissionDenied if it may not any more, Unavailable if that cannot be told.
	Holder func(ctx context.Context, id, tenant string) (*auth.Principal, error)
	Limits Limits
	Log    *zap.Logger
}

// Limits are those of messages and histories, and of tenants without quotas of their own. Package app reads them from the environment.
type Limits struct {
	HistorySize    int           `env:"HISTORY_SIZE" envDefault:"100" help:"most messages that the history of a channel has, 1 to 1000"`
	HistoryTTL     time.Duration `env:"HISTORY_TTL" envDefault:"5m" help:"how long the history keeps a message, 1s to 24h"`
	HistoryBytes   int64         `env:"HISTORY_BYTES" envDefault:"1048576" help:"most bytes that the history of a channel has; the last message is kept in any case"`
	MaxPayloadSize int64         `env:"MAX_PAYLOAD_SIZE" envDefault:"65536" help:"most bytes of the payload of a message to a channel, 1 to 1048576"`
	MaxChannels    int64         `env:"MAX_CHANNELS" envDefault:"10000" help:"most channels that a tenant without a quota of its own publishes to within a day; 0 is no limit"`
	MaxStreams     int64         `env:"MAX_STREAMS" envDefault:"10000" help:"most streams of channels of a tenant without a quota of its own, roughly, in all processes; 0 is no limit"`
	ReplyTimeout   time.Duration `env:"REPLY_TIMEOUT" envDefault:"250ms" help:"how long a call of channels waits for Redis"`
}

const (
	maxHistory = 1000
	maxPayload = 1 << 20
	// remembered is for how long Redis has the place of the last message of a channel.
	remembered = 24 * time.Hour
)

// Check requires that the limits make sense.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.HistorySize >= 1 && l.HistorySize <= maxHistory, "HISTORY_SIZE", "must be 1 to %d", maxHistory)
	want(l.HistoryTTL >= time.Second && l.HistoryTTL <= remembered, "HISTORY_TTL", "must be 1s to %v", remembered)
	want(l.HistoryBytes >= 1, "HISTORY_BYTES", "must be positive")
	want(l.MaxPayloadSize >= 1 && l.MaxPayloadSize <= maxPayload, "MAX_PAYLOAD_SIZE", "must be 1 to %d", maxPayload)
	want(l.MaxChannels >= 0, "MAX_CHANNELS", "must not be negative")
	want(l.MaxStreams >= 0, "MAX_STREAMS", "must not be negative")
	want(l.ReplyTimeout > 0, "REPLY_TIMEOUT", "must be positive")
}

// quotas are the quotas of this domain.
type quotas struct{ channels, streams *tenant.Quota }

// maxReads is how many streams of a process read histories at a time.
const maxReads = 16

// New returns a Service. It asks nothing of Redis before the first call.
func New(c Config) *Service {
	s := &Service{
		links: &links{client: c.Redis, log: c.Log, byAddr: map[string]*link{}}, scripts: newScripts(), limits: c.Limits, db: c.DB,
		holder: c.Holder, reads: make(chan struct{}, maxReads), metrics: newMetrics(), log: c.Log, feeds: map[string]*feed{},
		quotas: quotas{
			channels: tenant.NewQuota(tenant.QuotaConfig{Name: "channels", What: "channels of a day", Most: c.Limits.MaxChannels, Uncounted: true}),
			streams:  tenant.NewQuota(tenant.QuotaConfig{Name: "channel_streams", What: "streams of channels", Most: c.Limits.MaxStreams, Uncounted: true}),
		},
	}
	s.links.start = s.start
	return s
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota {
	return []*tenant.Quota{s.quotas.channels, s.quotas.streams}
}

// Metrics returns the metrics of this domain.
func (s *Service) Metrics() []prometheus.Collector { return s.metrics.all() }

// Run keeps the connections that listen, once they are needed, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	s.running.Lock()
	s.running.ctx = ctx
	s.running.Unlock()
	<-ctx.Done()
	s.running.Lock()
	s.running.ctx = nil
	s.running.Unlock()
	s.running.all.Wait()
	return nil
}

// start starts a goroutine that Run waits for. It reports false unless Run runs.
func (s *Service) start(f func(ctx context.Context)) bool {
	s.running.Lock()
	defer s.running.Unlock()
	ctx := s.running.ctx
	if ctx == nil || ctx.Err() != nil {
		return false
	}
	s.running.all.Go(func() { defer observe.LogPanic(s.log); f(ctx) })
	return true
}

// run runs a script for the tenant of ctx, on the server that a session listens to. look has it look for witnesses that ended. Errors:
// FailedPrecondition if that is another server by now; Unavailable if Redis is away, or refuses; ResourceExhausted if it is out of
// memory.
func (s *Service) run(ctx context.Context, c *session, script *redis.Script, look bool, keys []string, args ...any) ([]any, error) {
	looking := 0
	if look {
		looking = 1
	}
	args = append([]any{
		c.witness, strconv.FormatUint(uint64(newEpoch()), 10), s.streams(auth.TenantOf(ctx)), looking,
	}, args...)
	asking, cancel := context.WithTimeout(ctx, s.limits.ReplyTimeout)
	defer cancel()
	reply, err := script.Run(asking, c.client, keys, args...).Slice()
	switch {
	case err == nil && len(reply) > 0 && reply[0] == int64(0), redis.HasErrorPrefix(err, "MOVED"), redis.HasErrorPrefix(err, "READONLY"):
		c.end(err)
		return nil, errMoved
	case err == nil && len(reply) > 0:
		return reply, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case redis.HasErrorPrefix(err, "OOM"):
		return nil, errs.Wrap(err, errs.ResourceExhausted, "Redis is out of memory")
	case err == nil || kv.Away(err):
		s.metrics.away.Inc()
		return nil, errAway(err)
	}
	return nil, errs.Wrap(err, errs.Unavailable, "Redis refuses what channels ask")
}

var errMoved = errs.New(errs.FailedPrecondition, "another server has the channels now")

// newEpoch returns the number of an epoch.
func newEpoch() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // It never fails.
	return max(binary.BigEndian.Uint32(b[:]), 1)
}

// do runs f with the session of the tenant of ctx, and once more if another server has the tenant by now, of which f has asked nothing.
func (s *Service) do(ctx context.Context, f func(c *session) error) error {
	for again := false; ; again = true {
		link, err := s.links.of(ctx, auth.TenantOf(ctx))
		if err != nil {
			return err
		}
		c, err := link.await(ctx, s.limits.ReplyTimeout)
		if err != nil {
			return err
		}
		if err = f(c); err == nil || !errs.Is(err, errs.FailedPrecondition) {
			return err
		}
		if again {
			return errAway(err)
		}
		s.links.reload(ctx)
	}
}

// RemoveTenant removes a part of what the tenant of ctx has in Redis, and reports whether that was all.
func (s *Service) RemoveTenant(ctx context.Context) (done bool, err error) {
	pattern := kv.Key(auth.TenantOf(ctx), "channel*") // A tenant's name has no letter that means something here.
	err = s.do(ctx, func(c *session) error {
		found := c.client.Scan(ctx, 0, pattern, removeBatch).Iterator()
		for found.Next(ctx) {
			if err := c.client.Unlink(ctx, found.Val()).Err(); err != nil {
				return err
			}
		}
		return found.Err()
	})
	if err != nil {
		return false, errs.Wrap(err, errs.Unavailable, "the channels of a tenant could not be removed from Redis")
	}
	return true, nil
}

const removeBatch = 1000
