package cache

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/message"
	"plinth/internal/tenant"
)

// slowest is how many bytes a second reach Redis: more time is allowed for what is large.
const slowest = 10 << 20

// Service implements the rules of the cache. Its Run must be running.
type Service struct {
	redis            *kv.Guard
	client           redis.UniversalClient
	scripts          scripts
	memo             memoScripts
	flights          flights
	tags             typeTags
	poller           poller
	near             *near
	limits           Limits
	bytes            *tenant.Quota
	limit, memoLimit time.Duration // for a reply of Redis: Limits.ReplyTimeout and memoReply
	lease            time.Duration // leaseFor
	messages         *message.Service
	own              message.Destination
	cancels          *cancels
	metrics          *metrics
}

// Config configures a Service.
type Config struct {
	Redis    redis.UniversalClient
	Messages *message.Service // has the invalidations of transactions that end without them; nil for a cache without InvalidateTx
	Limits   Limits
}

// Limits are those of values, and of tenants without quotas of their own. Package app reads them from the environment.
type Limits struct {
	MaxValueSize int64         `env:"MAX_VALUE_SIZE" envDefault:"1048576" help:"most bytes of a value in the cache, 1 to 3145728"`
	MaxBytes     int64         `env:"MAX_BYTES" envDefault:"268435456" help:"most bytes that a tenant without a quota of its own has in the cache, keys included; roughly; 0 is no limit"`
	ReplyTimeout time.Duration `env:"REPLY_TIMEOUT" envDefault:"90ms" help:"how long a call waits for Redis before Redis counts as away; large values have more, 100 ms for each MiB"`
}

// largest is the largest MaxValueSize: a reply with one value stays within the 4 MiB that gRPC clients accept.
const largest = 3 << 20

// Check requires that the limits make sense.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.MaxValueSize >= 1 && l.MaxValueSize <= largest, "MAX_VALUE_SIZE", "must be 1 to %d", largest)
	want(l.MaxBytes >= 0, "MAX_BYTES", "must not be negative")
	want(l.ReplyTimeout > 0, "REPLY_TIMEOUT", "must be positive")
}

// New returns a Service. It asks nothing of Redis before the first call.
func New(c Config) *Service {
	s := &Service{
		redis: kv.NewGuard(c.Redis), client: c.Redis, scripts: newScripts(), memo: newMemoScripts(), near: newNear(nearBytes, nearEntries),
		limits: c.Limits, limit: c.Limits.ReplyTimeout, memoLimit: memoReply, lease: leaseFor, messages: c.Messages,
		cancels: newCancels(c.Messages), metrics: newMetrics(),
		bytes: tenant.NewQuota(tenant.QuotaConfig{Name: "cache_bytes", What: "bytes in the cache", Most: c.Limits.MaxBytes, Uncounted: true}),
	}
	if c.Messages != nil {
		s.own = c.Messages.Own("cache", s.invalidateLate)
	}
	return s
}

// Run cancels the rows of transactions whose keys are invalidated, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	s.cancels.run(ctx)
	return nil
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota { return []*tenant.Quota{s.bytes} }

// Metrics returns the metrics of this domain.
func (s *Service) Metrics() []prometheus.Collector { return s.metrics.all() }

// errBroken is a reply that is not the script's.
var errBroken = errs.New(errs.Internal, "the reply of a script has another form")

// run runs a script for the tenant of ctx and returns its reply. Errors: Unavailable if Redis is away, at once while that is
// known, or refuses; ResourceExhausted if it is out of memory.
func (s *Service) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	limit := s.limit
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			limit += time.Duration(len(text)) * time.Second / slowest
		}
	}
	reply, err := s.ask(ctx, limit, func(ctx context.Context, c redis.UniversalClient) (any, error) {
		return script.Run(ctx, c, keys, args...).Result()
	})
	switch {
	case err == nil:
		return reply, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case redis.HasErrorPrefix(err, "OOM"):
		return nil, errs.Wrap(err, errs.ResourceExhausted, "Redis is out of memory")
	case kv.Away(err):
		s.metrics.away.Inc()
		return nil, errs.Wrap(err, errs.Unavailable, "Redis is not available, and the cache is there")
	}
	return nil, errs.Wrap(err, errs.Unavailable, "Redis refuses what the cache asks")
}

// ask asks Redis for the tenant of ctx, and waits for at most limit. The error is that of Redis.
func (s *Service) ask(ctx context.Context, limit time.Duration, f func(context.Context, redis.UniversalClient) (any, error)) (reply any, err error) {
	err = s.redis.Do(ctx, auth.TenantOf(ctx), limit, func(ctx context.Context, c redis.UniversalClient) (err error) {
		reply, err = f(ctx, c)
		return err
	})
	return reply, err
}

// write runs a script of usageLua on keys.
func (s *Service) write(ctx context.Context, script *redis.Script, keys []Key, args ...any) (any, error) {
	names := make([]string, 1, len(keys)+1)
	names[0] = kv.Key(auth.TenantOf(ctx), "cache-usage")
	for _, key := range keys {
		names = append(names, key.inRedis(ctx))
	}
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	return s.run(ctx, script, names, append([]any{now, s.bytes.Limit(ctx)}, args...)...)
}

// RemoveTenant removes a part of what the tenant of ctx has in Redis, and reports whether that was all.
func (s *Service) RemoveTenant(ctx context.Context) (done bool, err error) {
	pattern := kv.Key(auth.TenantOf(ctx), "cache*") // A tenant's name has no letter that means something here.
	remove := func(ctx context.Context, c redis.Cmdable) error {
		found := c.Scan(ctx, 0, pattern, removeBatch).Iterator()
		for found.Next(ctx) {
			if err := c.Unlink(ctx, found.Val()).Err(); err != nil {
				return err
			}
		}
		return found.Err()
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return remove(ctx, node) })
	} else {
		err = remove(ctx, s.client)
	}
	if err != nil {
		return false, errs.Wrap(err, errs.Unavailable, "the keys of a tenant could not be removed from Redis")
	}
	return true, nil
}

const removeBatch = 1000
