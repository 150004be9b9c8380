package kv

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// awayReplies begin the replies of a server that cannot serve now, but will: it starts, fails over, or is busy.
func awayReplies() []string {
	return []string{
		"LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "NOREPLICAS ", "BUSY ", "max number of clients reached",
	}
}

// Away reports whether err means that Redis is away: it cannot be reached, does not answer in time, or replies that it cannot
// serve now. That passes by itself. Every other error, such as CROSSSLOT, NOAUTH, NOPERM, OOM, WRONGTYPE or a certificate that
// is not valid, is a refusal: the same command will be refused again until somebody mends the cause. Away reports false for
// nil, redis.Nil and context.Canceled.
func Away(err error) bool {
	var reply redis.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, &certificate):
		return false
	case errors.As(err, &reply):
		return slices.ContainsFunc(awayReplies(), func(prefix string) bool {
			// Before version 7 the reply to a script has that of the command within it.
			return redis.HasErrorPrefix(reply, prefix) || strings.Contains(reply.Error(), ": -"+prefix)
		})
	default:
		return true
	}
}
