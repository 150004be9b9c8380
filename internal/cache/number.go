package cache

import (
	"context"
	"strconv"
	"time"
)

// Increment adds delta to a value that is a whole number in decimal digits, and returns the sum. A key without a value begins at
// 0 and expires after ttl, 0 for DefaultTTL; otherwise ttl does nothing. Errors: FailedPrecondition for a value that is no such
// number or a sum that is not within 64 bits, which change nothing; InvalidArgument; ResourceExhausted; Unavailable if Redis is
// away: then it is not known whether it was added.
func (s *Service) Increment(ctx context.Context, key Key, delta int64, ttl time.Duration) (sum int64, stored Stored, err error) {
	if ttl, err = checkTTL(ttl); err != nil {
		return 0, Stored{}, err
	}
	head, version := newHead()
	now := time.Now()
	reply, err := s.write(ctx, s.scripts.increment, []Key{key}, delta, ttl.Milliseconds(), head)
	if err != nil {
		return 0, Stored{}, err
	}
	parts, _ := reply.([]any)
	if len(parts) != 3 {
		return 0, Stored{}, errBroken
	}
	if err := s.errOf(parts[0]); err != nil {
		return 0, Stored{}, err
	}
	digits, _ := parts[1].(string)
	left, _ := parts[2].(int64)
	if sum, err = strconv.ParseInt(digits, 10, 64); err != nil {
		return 0, Stored{}, errBroken
	}
	return sum, Stored{version, now.Add(time.Duration(left) * time.Millisecond)}, nil
}

// Expire sets when a value expires, 1 ms to MaxTTL from now, and leaves its version. Errors: NotFound; InvalidArgument;
// Unavailable if Redis is away.
func (s *Service) Expire(ctx context.Context, key Key, ttl time.Duration) (Stored, error) {
	ttl, err := checkTTL(ttl)
	if err != nil {
		return Stored{}, err
	}
	now := time.Now()
	reply, err := s.write(ctx, s.scripts.expire, []Key{key}, ttl.Milliseconds())
	if err != nil {
		return Stored{}, err
	}
	parts, _ := reply.([]any)
	if len(parts) != 2 {
		return Stored{}, errBroken
	}
	if err := s.errOf(parts[0]); err != nil {
		return Stored{}, err
	}
	raw, _ := parts[1].(string)
	return Stored{versionText.EncodeToString([]byte(raw)), now.Add(ttl)}, nil
}
