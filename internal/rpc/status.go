package rpc

// WithStatus returns the error of a plain route that is answered with an HTTP status of its own, in place of the one that
// follows from its code, such as 413 for a body that is too large.
func WithStatus(status int, err error) error { return &statusError{err, status} }

type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }
