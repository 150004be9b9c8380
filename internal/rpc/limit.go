package rpc

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/ratelimit"
	"plinth/internal/share"
)

// Limits bound the load that callers may cause. Zero means no limit.
type Limits struct {
	Tenant  auth.Rate            // calls of one tenant, unless the tenant has its own
	Key     auth.Rate            // calls of one API key or other principal, unless the key has its own
	Methods map[string]auth.Rate // calls of one tenant to one method, by the method's path
	Calls   int                  // most unary calls at a time; see concurrency
	Streams int                  // most streams at a time, without those of public methods
	// PublicStreams is the most streams of public methods at a time.
	PublicStreams int
	Memory        int64 // bytes that bodies may take at a time; see holdBody
}

// limitRate counts the call against every rate limit that applies to it, and returns an error if one is exceeded. The
// headers of draft-ietf-httpapi-ratelimit-headers describe the tightest limit.
func (s *Stack) limitRate(ctx context.Context, c *call, m *method) error {
	if s.Limiter == nil {
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
	add(ratelimit.Limit{Tenant: tenant, Kind: "method", Name: m.name, Rate: s.Limits.Methods[m.name]})
	if n == 0 {
		return nil
	}
	d := s.Limiter.Take(ctx, 1, limits[:n]...)
	setRateHeaders(c.Header(), d)
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
// and shrinks when they do. A call beyond the limit, or beyond what its tenant may have of it, waits for up to overloadWait,
// unless too many are waiting already, and is then shed. Tenants that wait take turns.
const (
	minConcurrency     = 64
	initialConcurrency = 256
	overloadWait       = 500 * time.Millisecond
	maxQueued          = 1024 // calls of one tenant
)

// concurrency limits the unary calls that are processed at a time.
type concurrency struct {
	calls  adaptivelimiter.AdaptiveLimiter[any] // nil if there is no limit
	shares *share.Pool                          // divides what calls allows
}

// place is that of a unary call.
type place struct {
	permit adaptivelimiter.Permit // nil if there is no limit
	owner  string
}

func newConcurrency(most int) *concurrency {
	c := &concurrency{}
	if most > 0 {
		least, first := min(minConcurrency, most), min(initialConcurrency, most)
		c.calls = adaptivelimiter.NewBuilder[any]().WithLimits(uint(least), uint(most), uint(first)).Build()
		c.shares = share.New(share.Config{
			Capacity: func() int64 { return int64(c.calls.Limit()) }, Times: shareTimes, Small: 1, Waiters: maxQueued,
		})
	}
	return c
}

// begin takes the place of a unary call of an owner; end frees it.
func (c *concurrency) begin(ctx context.Context, owner string) (place, error) {
	if c.calls == nil {
		return place{}, nil
	}
	if err := c.shares.Acquire(ctx, owner, 1, overloadWait); err != nil {
		return place{}, shed(ctx)
	}
	permit, free := c.calls.TryAcquirePermit()
	if !free { // The limit became smaller meanwhile.
		var err error
		if permit, err = c.calls.AcquirePermitWithMaxWait(ctx, overloadWait); err != nil {
			c.shares.Release(owner, 1)
			return place{}, shed(ctx)
		}
	}
	return place{permit, owner}, nil
}

// shed returns the error of a call that got no place.
func shed(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errOverloaded
}

// end frees a place. The duration of a successful call is a measure of the service's load. That of a failed one is not: errors
// are quick, or as slow as a deadline.
func (c *concurrency) end(p place, err error) {
	if p.permit == nil {
		return
	}
	if err == nil {
		p.permit.Record()
	} else {
		p.permit.Drop()
	}
	c.shares.Release(p.owner, 1)
}

var errOverloaded = errs.New(errs.ResourceExhausted, "the service is overloaded; try again in a moment").Because("OVERLOADED").After(time.Second)
