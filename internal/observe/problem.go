package observe

import "plinth/internal/errs"

// kinds are the names of errs' kinds.
var kinds = [...]string{
	errs.Internal: "internal", errs.Canceled: "canceled", errs.InvalidArgument: "invalid_argument", errs.DeadlineExceeded: "deadline_exceeded",
	errs.NotFound: "not_found", errs.AlreadyExists: "already_exists", errs.PermissionDenied: "permission_denied",
	errs.ResourceExhausted: "resource_exhausted", errs.FailedPrecondition: "failed_precondition", errs.Aborted: "aborted",
	errs.Unimplemented: "unimplemented", errs.Unavailable: "unavailable", errs.Unauthenticated: "unauthenticated", errs.DataLoss: "data_loss",
}

// Problem returns what a span says of an error: its kind, never its text, which may have values; "" for nil.
func Problem(err error) string {
	if err == nil {
		return ""
	}
	return kinds[errs.KindOf(err)]
}
