package broker

// InDoubt is the error of a publication that was sent, and whose outcome is not known in time. Its kind is that of Err,
// errs.Unavailable.
type InDoubt struct {
	Err error
	// Outcome receives one value, as soon as it is known: nil if the broker has stored the message, an error if it refused it, or
	// if the outcome will never be known.
	Outcome <-chan error
}

// Lost returns the error of a publication whose outcome will never be known.
func Lost(err error) *InDoubt {
	outcome := make(chan error, 1)
	outcome <- err
	return &InDoubt{Err: err, Outcome: outcome}
}

func (d *InDoubt) Error() string { return d.Err.Error() }

// Unwrap returns Err.
func (d *InDoubt) Unwrap() error { return d.Err }
