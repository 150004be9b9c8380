package schedule

import (
	"context"
	"time"

	redislock "github.com/go-co-op/gocron-redis-lock/v2"
	"github.com/go-co-op/gocron/v2"
	"github.com/redis/go-redis/v9"

	"plinth/internal/kv"
)

// ownLockLimit is how long a lock is asked for.
const ownLockLimit = 2 * time.Second

// ownLocker has one worker do a job in an interval, as long as Redis is there.
type ownLocker struct {
	redis redis.UniversalClient
	locks gocron.Locker
}

// newOwnLocker returns the locker of a job. Its locks are kept for most of the interval, and not until the job has ended: whoever
// comes for the same interval a moment later finds it done. They are asked for once, since trying again would be for the next interval.
func newOwnLocker(client redis.UniversalClient, interval time.Duration) *ownLocker {
	// Redis may be away now; the error says no more than that.
	locks, _ := redislock.NewRedisLockerAlways(client, redislock.WithExpiry(interval*9/10), redislock.WithTries(1))
	return &ownLocker{client, locks}
}

// Lock fails if another worker does the job in this interval, or has done it. If Redis cannot tell, this worker does it as well. The
// job's id is that of its row, so that services with databases of their own do not take each other's jobs where they share a Redis.
func (l *ownLocker) Lock(ctx context.Context, id string) (gocron.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, ownLockLimit)
	defer cancel()
	key := kv.Key(ownTenant, "job", id)
	_, err := l.locks.Lock(ctx, key)
	if err == nil {
		return keptLock{}, nil
	}
	if held, asked := l.redis.Exists(ctx, key).Result(); asked == nil && held > 0 {
		return nil, err
	}
	return keptLock{}, nil
}

// keptLock is a lock that ends by itself.
type keptLock struct{}

func (keptLock) Unlock(context.Context) error { return nil }
