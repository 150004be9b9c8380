package outbound

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"plinth/internal/errs"
)

// retry makes a call until it succeeds or may not be retried any more, and returns what came of the last attempt.
func (c *Client) retry(ctx context.Context, r Request) (last *Reply, lastErr error) {
	policy := retrypolicy.NewBuilder[*Reply]().
		HandleIf(mayHelp).
		WithMaxAttempts(r.Retry.Attempts).
		WithBackoff(r.Retry.MinBackoff, max(r.Retry.MaxBackoff, r.Retry.MinBackoff+1)).WithJitterFactor(0.25).
		WithDelayFunc(func(e failsafe.ExecutionAttempt[*Reply]) time.Duration {
			return retryAfter(e.LastResult(), r.Retry.MaxBackoff)
		}).
		WithBudget(c.budget).
		Build()
	attempts := 0
	// Its own error says only that there were too many attempts, or that others are retried already.
	_, _ = failsafe.With(policy).WithContext(ctx).Get(func() (*Reply, error) {
		attempts++
		last, lastErr = c.attempt(ctx, r)
		return last, lastErr
	})
	switch {
	case attempts == 0:
		return nil, cause(ctx, ctx.Err(), r.URL)
	case lastErr == nil:
		last.Attempts = attempts
	}
	return last, lastErr
}

// mayHelp reports whether another attempt may help.
func mayHelp(reply *Reply, err error) bool {
	if err != nil {
		return errs.Retryable(err) && !errs.Is(err, errs.Canceled)
	}
	return reply.StatusCode == http.StatusTooManyRequests || isAway(reply.StatusCode)
}

// isAway reports whether a status says that the host behind the one that answers does not.
func isAway(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// retryAfter returns how long a reply asks to wait, at most longest; -1 leaves it to the back-off.
func retryAfter(reply *Reply, longest time.Duration) time.Duration {
	if reply == nil {
		return -1
	}
	if after, says := reply.RetryAfter(longest); says {
		return after
	}
	return -1
}

// RetryAfter returns how long the reply asks to wait, at most longest. says is false if it does not say.
func (r *Reply) RetryAfter(longest time.Duration) (after time.Duration, says bool) {
	text := r.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) { // Then it is the largest.
		return min(time.Duration(seconds)*time.Second, longest), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(at), 0), longest), true
	}
	return 0, false
}
