package rpc

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/ratelimit"
)

// Limits bound the load that callers may cause. Zero means no limit.
type Limits struct {
	Tenant  auth.Rate            // calls of one tenant, unless the tenant has its own
	Key     auth.Rate            // calls of one API key or other principal, unless the key has its own
	Methods map[string]auth.Rate // calls of one tenant to one method, by the method's path
	Calls   int                  // most unary calls at a time; see concurrency
	Streams int                  // most streams at a time
}

// limitRate counts the call against every rate limit that applies to it, and returns an error if one is exceeded. The
// headers of draft-ietf-httpapi-ratelimit-headers describe the tightest limit.
func (s *Stack) limitRate(ctx context.Context, c *call, m method) error {
	if s.Limiter == nil || m.public {
		return nil
	}
	p := auth.From(ctx)
	tenant, owner := p.Tenant.Name, p.Tenant.Name
	if p.IsAdmin() {
		owner = auth.DefaultTenant // A key has one limit, whichever tenant it acts for.
	}
	var limits [3]ratelimit.Limit
	n := 0
	add := func(limit ratelimit.Limit) {
		if limit.Rate.IsLimit() {
			limits[n] = limit
			n++
		}
	}
	add(ratelimit.Limit{Tenant: tenant, Kind: "tenant", Rate: either(p.Tenant.Rate, s.Limits.Tenant), Slot: p.Tenant.RateSlot})
	add(ratelimit.Limit{Tenant: owner, Kind: "key", Name: p.ID, Rate: either(p.Rate, s.Limits.Key), Slot: p.RateSlot})
	add(ratelimit.Limit{Tenant: tenant, Kind: "method", Name: c.procedure, Rate: s.Limits.Methods[c.procedure]})
	if n == 0 {
		return nil
	}
	d := s.Limiter.Take(ctx, 1, limits[:n]...)
	if c.ResponseWriter != nil {
		setRateHeaders(c.Header(), d)
	}
	if d.Allowed {
		return nil
	}
	return errs.New(errs.ResourceExhausted, "the rate limit of the %s is %s; try again in %v",
		d.Kind, d.Limit, d.RetryAfter.Round(time.Millisecond)).Because("RATE_LIMITED").After(d.RetryAfter)
}

func either(own, general auth.Rate) auth.Rate {
	if own.IsLimit() {
		return own
	}
	return general
}

func setRateHeaders(h http.Header, d ratelimit.Decision) {
	text := appendItem(make([]byte, 0, 128), d.Kind, "q", d.Limit.Count, "w", d.Limit.Per)
	end := len(text)
	both := string(appendItem(text, d.Kind, "r", d.Remaining, "t", d.Reset))
	values := []string{both[:end], both[end:]}
	h["Ratelimit-Policy"], h["Ratelimit"] = values[:1:1], values[1:]
}

// appendItem appends a string with two parameters (RFC 9651).
func appendItem(text []byte, name, count string, n int64, seconds string, d time.Duration) []byte {
	text = append(append(append(text, '"'), name...), `";`...)
	text = strconv.AppendInt(append(append(text, count...), '='), n, 10)
	return strconv.AppendInt(append(append(append(text, ';'), seconds...), '='), wholeSeconds(d), 10)
}

// wholeSeconds rounds up, so that a client that waits this long is not too early.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// The limit of concurrent unary calls adapts between these bounds: it grows as long as calls do not become slower for it,
// and shrinks when they do. A call beyond the limit waits for up to overloadWait, unless too many are waiting already, and
// is then shed.
const (
	minConcurrency     = 64
	initialConcurrency = 256
	overloadWait       = 500 * time.Millisecond
	queueFactor        = 4 // times the limit may wait in the queue
)

// concurrency limits the unary calls that are processed at a time, and counts the open streams.
type concurrency struct {
	calls   adaptivelimiter.AdaptiveLimiter[any] // nil if there is no limit
	streams atomic.Int64
}

func newConcurrency(most int) *concurrency {
	c := &concurrency{}
	if most > 0 {
		least, first := min(minConcurrency, most), min(initialConcurrency, most)
		c.calls = adaptivelimiter.NewBuilder[any]().WithLimits(uint(least), uint(most), uint(first)).Build()
	}
	return c
}

// begin acquires a permit for a unary call; end releases it.
func (c *concurrency) begin(ctx context.Context) (permit adaptivelimiter.Permit, err error) {
	if c.calls == nil {
		return nil, nil
	}
	permit, free := c.calls.TryAcquirePermit()
	if !free {
		if c.calls.Queued() >= queueFactor*c.calls.Limit() {
			return nil, errOverloaded
		}
		if permit, err = c.calls.AcquirePermitWithMaxWait(ctx, overloadWait); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, errOverloaded
		}
	}
	return permit, nil
}

// end releases a permit. The duration of a successful call is a measure of the service's load. That of a failed one is not:
// errors are quick, or as slow as a deadline.
func (c *concurrency) end(permit adaptivelimiter.Permit, err error) {
	switch {
	case permit == nil:
	case err == nil:
		permit.Record()
	default:
		permit.Drop()
	}
}

var errOverloaded = errs.New(errs.ResourceExhausted, "the service is overloaded; try again in a moment").Because("OVERLOADED").After(time.Second)

// openStream counts a stream, and returns an error if too many are open.
func (s *Stack) openStream() (end func(), err error) {
	open := s.load.streams.Add(1)
	end = func() { s.load.streams.Add(-1) }
	if s.Limits.Streams > 0 && open > int64(s.Limits.Streams) {
		end()
		return nil, errs.New(errs.ResourceExhausted, "this server has %d streams open, and takes no more; try again, another server may",
			s.Limits.Streams).Because("TOO_MANY_STREAMS").After(time.Second)
	}
	return end, nil
}
