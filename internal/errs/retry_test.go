package errs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"plinth/internal/errs"
)

func TestRetryable(t *testing.T) {
	for kind, want := range map[errs.Kind]bool{
		errs.Internal: true, errs.Canceled: true, errs.DeadlineExceeded: true, errs.ResourceExhausted: true, errs.Aborted: true,
		errs.Unavailable: true, errs.InvalidArgument: false, errs.NotFound: false, errs.AlreadyExists: false,
		errs.PermissionDenied: false, errs.FailedPrecondition: false, errs.Unimplemented: false, errs.Unauthenticated: false,
	} {
		if got := errs.Retryable(fmt.Errorf("around: %w", errs.New(kind, "x"))); got != want {
			t.Errorf("kind %d: %v, want %v", kind, got, want)
		}
	}
	for _, err := range []error{errors.New("unknown"), context.Canceled, context.DeadlineExceeded} {
		if !errs.Retryable(err) {
			t.Errorf("%v is not retryable", err)
		}
	}
}

func TestPermanent(t *testing.T) {
	cause := errs.New(errs.Unavailable, "gone for good")
	err := fmt.Errorf("around: %w", errs.Permanent(cause))
	if errs.Retryable(err) {
		t.Error("it is retryable")
	}
	if !errors.Is(err, cause) || errs.KindOf(err) != errs.Unavailable || err.Error() != "around: gone for good" {
		t.Errorf("%v lost its kind, its cause or its text", err)
	}
	if errs.Permanent(nil) != nil {
		t.Error("nil became an error")
	}
}
