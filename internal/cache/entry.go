package cache

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
)

const (
	// MaxKey is the most bytes of a key.
	MaxKey = 512
	// MaxKeys is the most keys of a GetMany or SetMany.
	MaxKeys = 100
	// DefaultTTL is when a value expires whose writer does not say.
	DefaultTTL = time.Hour
	// MaxTTL is the longest time after which a value expires. There are none that never do.
	MaxTTL = 30 * 24 * time.Hour
	// MaxReply is the most bytes of values that a GetMany returns.
	MaxReply = 3 << 20
)

// Key is a valid key of the cache: 1 to MaxKey bytes of UTF-8.
type Key struct{ key string }

// ParseKey returns key as a Key. Errors: InvalidArgument.
func ParseKey(key string) (Key, error) {
	if key == "" || len(key) > MaxKey || !utf8.ValidString(key) {
		return Key{}, errs.New(errs.InvalidArgument, "key: 1 to %d bytes of UTF-8 are allowed", MaxKey)
	}
	return Key{key}, nil
}

func (k Key) String() string { return k.key }

func (k Key) inRedis(ctx context.Context) string { return kv.Key(auth.TenantOf(ctx), "cache", k.key) }

// Entry is a value in the cache.
type Entry struct {
	Value []byte
	Stored
}

// Stored is what a value gets when it is set.
type Stored struct {
	Version   string // opaque; another one each time that the value is set
	ExpiresAt time.Time
}

// Condition is what must hold for a change. The zero Condition always holds.
type Condition struct{ text string }

// IfAbsent holds for a key without a value.
func IfAbsent() Condition { return Condition{"absent"} }

// IfPresent holds for a key with a value.
func IfPresent() Condition { return Condition{"present"} }

// IfVersion holds for a value that has one of the versions.
func IfVersion(versions ...string) Condition {
	var text strings.Builder
	text.WriteString("=")
	for _, v := range versions {
		if raw, err := versionText.DecodeString(v); err == nil && len(raw) == versionSize { // Another text is no version of ours.
			text.Write(raw)
		}
	}
	return Condition{text.String()}
}

var versionText = base64.RawURLEncoding.Strict()

// newHead returns the head of a new value, and its version.
func newHead() (head, version string) {
	var raw [versionSize]byte
	_, _ = rand.Read(raw[:]) // It never fails.
	return mark + string(raw[:]), versionText.EncodeToString(raw[:])
}

// Result is one of those of GetMany.
type Result struct {
	Entry
	Err error
}

// Get returns the value of a key. Errors: NotFound, also for something that is no value of this cache; Unavailable if Redis is
// away.
func (s *Service) Get(ctx context.Context, key Key) (Entry, error) {
	results, err := s.GetMany(ctx, []Key{key})
	if err != nil {
		return Entry{}, err
	}
	return results[0].Entry, results[0].Err
}

// GetMany returns a result for each of up to MaxKeys keys, in order. Those that Get would have returned an error for have it;
// a value with which all are more than MaxReply has ResourceExhausted. Errors: Unavailable if Redis is away.
func (s *Service) GetMany(ctx context.Context, keys []Key) ([]Result, error) {
	if err := checkCount(len(keys)); err != nil {
		return nil, err
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.inRedis(ctx)
	}
	asked := time.Now()
	reply, err := s.run(ctx, s.scripts.get, names, MaxReply)
	if err != nil {
		return nil, err
	}
	parts, _ := reply.([]any)
	if len(parts) != len(keys) {
		return nil, errBroken
	}
	results := make([]Result, len(keys))
	for i, part := range parts {
		results[i] = readEntry(part, asked)
		s.metrics.read(results[i].Err == nil)
	}
	return results, nil
}

// readEntry reads the part of one key of the reply of getScript.
func readEntry(part any, asked time.Time) Result {
	fields, _ := part.([]any)
	if len(fields) != 3 {
		return Result{Err: errBroken}
	}
	value, _ := fields[1].(string)
	left, _ := fields[2].(int64)
	switch {
	case fields[0] == int64(stateFull):
		return Result{Err: errs.New(errs.ResourceExhausted, "keys: a reply has at most %d bytes of values; ask for this one again", MaxReply)}
	case fields[0] != int64(stateDone) || len(value) < headSize || !strings.HasPrefix(value, mark):
		return Result{Err: errNoValue()}
	}
	return Result{Entry: Entry{[]byte(value[headSize:]), Stored{
		Version: versionText.EncodeToString([]byte(value[len(mark):headSize])), ExpiresAt: asked.Add(time.Duration(left) * time.Millisecond),
	}}}
}

// Write is a value to set.
type Write struct {
	Key   Key
	Value []byte        // at most Limits.MaxValueSize
	TTL   time.Duration // when it expires, 1 ms to MaxTTL; 0 is DefaultTTL
	If    Condition
}

// check returns the Write with its TTL.
func (s *Service) check(w Write) (Write, error) {
	if int64(len(w.Value)) > s.limits.MaxValueSize {
		return w, errs.New(errs.InvalidArgument, "value: it has %d bytes; at most %d are allowed", len(w.Value), s.limits.MaxValueSize)
	}
	var err error
	w.TTL, err = checkTTL(w.TTL)
	return w, err
}

func checkTTL(ttl time.Duration) (time.Duration, error) {
	switch {
	case ttl == 0:
		return DefaultTTL, nil
	case ttl < time.Millisecond || ttl > MaxTTL:
		return 0, errs.New(errs.InvalidArgument, "ttl: 1 ms to 30 days are allowed")
	}
	return ttl, nil
}

func checkCount(n int) error {
	if n < 1 || n > MaxKeys {
		return errs.New(errs.InvalidArgument, "keys: 1 to %d are allowed at once, not %d", MaxKeys, n)
	}
	return nil
}

// SetResult is one of those of SetMany.
type SetResult struct {
	Stored
	Err error
}

// Set sets a value. Errors: InvalidArgument; FailedPrecondition if the condition does not hold; ResourceExhausted if the quota of
// the tenant is used up; Unavailable if Redis is away: then it is not known whether the value is set.
func (s *Service) Set(ctx context.Context, w Write) (Stored, error) {
	results, err := s.SetMany(ctx, []Write{w})
	if err != nil {
		return Stored{}, err
	}
	return results[0].Stored, results[0].Err
}

// SetMany sets up to MaxKeys values, each of them by itself, and returns a result for each, in order. Errors: Unavailable if
// Redis is away.
func (s *Service) SetMany(ctx context.Context, writes []Write) ([]SetResult, error) {
	if err := checkCount(len(writes)); err != nil {
		return nil, err
	}
	results := make([]SetResult, len(writes))
	keys, args, places := make([]Key, 0, len(writes)), make([]any, 0, 3*len(writes)), make([]int, 0, len(writes))
	now := time.Now()
	for i, w := range writes {
		w, err := s.check(w)
		if err != nil {
			results[i].Err = err
			continue
		}
		head, version := newHead()
		results[i].Stored = Stored{version, now.Add(w.TTL)}
		keys, places = append(keys, w.Key), append(places, i)
		args = append(args, head+string(w.Value), w.TTL.Milliseconds(), w.If.text)
	}
	if len(keys) == 0 {
		return results, nil
	}
	reply, err := s.write(ctx, s.scripts.set, keys, args...)
	if err != nil {
		return nil, err
	}
	states, _ := reply.([]any)
	if len(states) != len(keys) {
		return nil, errBroken
	}
	for n, state := range states {
		if err := s.errOf(state); err != nil {
			results[places[n]] = SetResult{Err: err}
		}
	}
	return results, nil
}

// Delete removes a value, and reports whether there was one. Errors: FailedPrecondition if the condition does not hold;
// Unavailable if Redis is away.
func (s *Service) Delete(ctx context.Context, key Key, condition Condition) (deleted bool, err error) {
	state, err := s.write(ctx, s.scripts.remove, []Key{key}, condition.text)
	if err != nil || state == int64(stateNone) {
		return false, err
	}
	if err := s.errOf(state); err != nil {
		return false, err
	}
	return true, nil
}

// errOf returns the error of a state.
func (s *Service) errOf(state any) error {
	switch state {
	case int64(stateDone):
		return nil
	case int64(stateNone):
		return errNoValue()
	case int64(stateRefused):
		return errCondition()
	case int64(stateFull):
		return s.bytes.Exceeded()
	case int64(stateText):
		return errs.New(errs.FailedPrecondition, "the value is no whole number in decimal digits, or the sum is not within 64 bits").
			Because("NOT_A_NUMBER")
	}
	return errBroken
}

func errCondition() error {
	return errs.New(errs.FailedPrecondition, "the condition does not hold: the key has another version, or a value where it "+
		"must have none, or none where it must have one").Because("CONDITION_FAILED")
}

func errNoValue() error { return errs.New(errs.NotFound, "key: there is no value") }
