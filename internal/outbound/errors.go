package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"syscall"

	"plinth/internal/errs"
)

// Reasons of errors.
const (
	addressRefused = "ADDRESS_REFUSED"
	breakerOpen    = "BREAKER_OPEN"
)

// cause returns what went wrong with a call in our words. ctx is that of the caller, without the time of the attempt. Where a name led
// to is for the log alone: it may say what is behind the service.
func cause(ctx context.Context, err error, target *url.URL) error {
	host := target.Host
	var known *errs.Error
	var r *refusal
	var unresolved *net.DNSError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var slow net.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &r):
		return errs.Wrap(r, errs.PermissionDenied, "%s: leads to %s, which is not allowed", host, r.kind).Because(addressRefused)
	case errors.Is(err, errNoName):
		return errs.New(errs.InvalidArgument, "%s: the host %v", host, errNoName)
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
		return errs.Wrap(ctx.Err(), errs.Canceled, "%s: the call was cancelled", host)
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout():
		return errs.Wrap(err, errs.DeadlineExceeded, "%s: no reply in time", host)
	case errors.As(err, &unresolved):
		return errs.Wrap(err, errs.Unavailable, "%s: the name has no address", host)
	case errors.As(err, &certificate):
		return errs.Wrap(err, errs.Unavailable, "%s: the certificate is not valid for it", host)
	case errors.As(err, &record):
		return errs.Wrap(err, errs.Unavailable, "%s: does not speak TLS", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errs.Wrap(err, errs.Unavailable, "%s: refuses connections", host)
	default:
		return errs.Wrap(err, errs.Unavailable, "%s: the call failed", host)
	}
}
