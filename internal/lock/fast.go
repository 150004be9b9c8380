package lock

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/loop"
)

const (
	replyLimit = 250 * time.Millisecond // for an answer of Redis
	awayPause  = time.Second            // for clients, before they try again
	fastMin    = 5 * time.Millisecond   // between two looks at a lock that somebody has
	fastMax    = 250 * time.Millisecond
)

// fastScript is all that fast locks do. KEYS: the lock. ARGV: what to do, the lease, and for how many milliseconds it lasts. The
// value of a key is the lease and its owner. A key of another type, or one that never ends, is not of ours and counts as none.
//
// The reply: 1 if it was done, or else 0; for a lock that somebody else has, with the milliseconds until that lease ends, and its owner.
const fastScript = `
local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then value = nil end
local mine = value and string.sub(value, 1, 36) == string.sub(ARGV[2], 1, 36)
if ARGV[1] == 'acquire' then
	local left = value and not mine and redis.call('PTTL', KEYS[1]) or -1
	if left >= 0 then return {0, left, string.sub(value, 38)} end
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
	return {1, 0, ''}
elseif mine then
	if ARGV[1] == 'renew' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) else redis.call('DEL', KEYS[1]) end
	return {1, 0, ''}
end
return {0, 0, ''}
`

// fast has the locks in Redis.
type fast struct {
	guard  *kv.Guard
	script *redis.Script
}

func newFast(client redis.UniversalClient) *fast {
	return &fast{guard: kv.NewGuard(client), script: redis.NewScript(fastScript)}
}

// run runs the script. Errors: Unavailable where Redis is away, at once while that is known, and where it refuses.
func (f *fast) run(ctx context.Context, what string, name Name, lease string, ttl time.Duration) (done bool, h held, err error) {
	tenant := auth.TenantOf(ctx)
	var reply []any
	err = f.guard.Do(ctx, tenant, replyLimit, func(ctx context.Context, client redis.UniversalClient) (err error) {
		reply, err = f.script.Run(ctx, client, []string{kv.Key(tenant, "lock", name.name)}, what, lease, ttl.Milliseconds()).Slice()
		return err
	})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return false, held{}, ctx.Err()
	case kv.Away(err):
		return false, held{}, errAway(err)
	default:
		return false, held{}, errs.Wrap(err, errs.Unavailable, "Redis refuses fast locks")
	}
	if len(reply) != 3 {
		return false, held{}, errAway(fmt.Errorf("the reply of the script has %d parts", len(reply)))
	}
	left, _ := reply[1].(int64)
	h.left = time.Duration(left) * time.Millisecond
	h.owner, _ = reply[2].(string)
	return reply[0] == int64(1), h, nil
}

func errAway(cause error) error {
	return errs.Wrap(cause, errs.Unavailable, "Redis is not available, and fast locks are there").After(awayPause)
}

// acquireFast takes a fast lock, or looks again and again until the wait is over.
func (s *Service) acquireFast(ctx context.Context, r Request) (Lease, error) {
	deadline := time.Now().Add(r.Wait)
	backoff := loop.Backoff{Min: fastMin, Max: fastMax}
	for {
		sent := time.Now()
		done, h, err := s.fast.run(ctx, "acquire", r.Name, r.LeaseID.String()+" "+r.Owner, r.TTL)
		if err != nil {
			return Lease{}, err
		}
		if done {
			return fastLease(r.Name, r.LeaseID, sent, r.TTL), nil
		}
		pause := time.NewTimer(min(backoff.Next(), max(h.left, fastMin), time.Until(deadline)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		case <-r.Finishing:
			return Lease{}, errFinishing
		}
		if !time.Now().Before(deadline) {
			return Lease{}, errHeld(r.Name, h)
		}
	}
}

func fastLease(name Name, id uuid.UUID, sent time.Time, ttl time.Duration) Lease {
	return Lease{Name: name, ID: id, ExpiresAt: sent.Add(ttl), End: sent.Add(ttl)}
}

func (s *Service) renewFast(ctx context.Context, name Name, id uuid.UUID, ttl time.Duration) (Lease, error) {
	sent := time.Now()
	done, _, err := s.fast.run(ctx, "renew", name, id.String(), ttl)
	if err == nil && !done {
		err = errLost(name)
	}
	if err != nil {
		return Lease{}, err
	}
	return fastLease(name, id, sent, ttl), nil
}

func (s *Service) releaseFast(ctx context.Context, name Name, id uuid.UUID) (bool, error) {
	done, _, err := s.fast.run(ctx, "release", name, id.String(), 0)
	return done, err
}
