package errs

import "errors"

// Retryable reports whether doing the same again may help. What nobody classified is taken to be a passing fault; what is wrong
// with the request itself by its kind, or is marked by Permanent, stays wrong. err is not nil.
func Retryable(err error) bool {
	var marked permanent
	if errors.As(err, &marked) {
		return false
	}
	switch KindOf(err) {
	case InvalidArgument, NotFound, AlreadyExists, PermissionDenied, FailedPrecondition, Unimplemented, Unauthenticated, DataLoss:
		return false
	case Internal, Canceled, DeadlineExceeded, ResourceExhausted, Aborted, Unavailable:
		return true
	default:
		return true // It is no kind of ours.
	}
}

// Permanent marks an error as not retryable, whatever its kind, which stays. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }
