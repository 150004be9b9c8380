package errs

import "errors"

// Retryable says whether doing the same again may help. What nobody classified is taken to be a passing fault; what the
// kind calls wrong with the request itself, or Permanent marked, stays wrong. err is not nil.
func Retryable(err error) bool {
	var marked permanent
	if errors.As(err, &marked) {
		return false
	}
	switch KindOf(err) {
	case InvalidArgument, NotFound, AlreadyExists, PermissionDenied, FailedPrecondition, Unimplemented, Unauthenticated:
		return false
	default: // Internal, Canceled, DeadlineExceeded, ResourceExhausted, Aborted, Unavailable
		return true
	}
}

// Permanent marks an error as one that no retry mends, whatever its kind, which stays. nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }
