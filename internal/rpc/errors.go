package rpc

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"plinth/internal/errs"
)

// codes maps the kinds of errors to the codes that clients see. It is the only such table.
var codes = map[errs.Kind]connect.Code{
	errs.Internal:           connect.CodeInternal,
	errs.Canceled:           connect.CodeCanceled,
	errs.InvalidArgument:    connect.CodeInvalidArgument,
	errs.DeadlineExceeded:   connect.CodeDeadlineExceeded,
	errs.NotFound:           connect.CodeNotFound,
	errs.AlreadyExists:      connect.CodeAlreadyExists,
	errs.PermissionDenied:   connect.CodePermissionDenied,
	errs.ResourceExhausted:  connect.CodeResourceExhausted,
	errs.FailedPrecondition: connect.CodeFailedPrecondition,
	errs.Aborted:            connect.CodeAborted,
	errs.Unimplemented:      connect.CodeUnimplemented,
	errs.Unavailable:        connect.CodeUnavailable,
	errs.Unauthenticated:    connect.CodeUnauthenticated,
	errs.DataLoss:           connect.CodeDataLoss,
}

// domain is the domain of the reasons in google.rpc.ErrorInfo.
const domain = "plinth"

// unavailableRetry is the RetryAfter of Unavailable errors that do not set one.
const unavailableRetry = time.Second

// wireError returns an error in the form that clients see. A Connect error was created on purpose and is returned unchanged;
// an errs.Error shows its message; any other error is internal and shows nothing of its text.
func wireError(err error, requestID string) *connect.Error {
	var wire *connect.Error
	if errors.As(err, &wire) {
		if text := wire.Message(); len(text) > maxFault { // a message of a stream that does not parse
			return connect.NewError(wire.Code(), errors.New(errs.Shortened(text, maxFault)))
		}
		return wire
	}
	var invalid *invalidError
	if errors.As(err, &invalid) {
		wire = connect.NewError(connect.CodeInvalidArgument, invalid)
		addDetail(wire, invalid.detail)
		addDetail(wire, &errdetails.RequestInfo{RequestId: requestID})
		addDetail(wire, errorInfo("", wire.Code()))
		return wire
	}
	kind := errs.KindOf(err)
	message, reason := "internal error: the log of the server has it under this request's id", ""
	var classified *errs.Error
	switch {
	case errors.As(err, &classified):
		message, reason = classified.Message, classified.Reason
	case kind == errs.Canceled:
		message = "the call was canceled"
	case kind == errs.DeadlineExceeded:
		message = "the call took longer than its deadline"
	}
	wire = connect.NewError(codes[kind], errors.New(message))
	if fault := violation(message); kind == errs.InvalidArgument && fault.GetField() != "" {
		addDetail(wire, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{fault}})
	}
	addDetail(wire, &errdetails.RequestInfo{RequestId: requestID})
	addDetail(wire, errorInfo(reason, wire.Code()))
	if after := retryAfter(err); after > 0 {
		addDetail(wire, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	return wire
}

// errorInfo returns the machine-readable reason of an error. The default is the name of the code in capitals.
func errorInfo(reason string, code connect.Code) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: cmp.Or(reason, strings.ToUpper(code.String())), Domain: domain}
}

// retryAfter returns how long it is useless to try again, or 0 if that is unknown.
func retryAfter(err error) time.Duration {
	var classified *errs.Error
	switch {
	case errors.As(err, &classified) && classified.RetryAfter > 0:
		return classified.RetryAfter
	case errs.Is(err, errs.Unavailable):
		return unavailableRetry
	}
	return 0
}

func addDetail(e *connect.Error, message proto.Message) {
	detail, err := connect.NewErrorDetail(message)
	if err == nil { // It fails for messages that do not marshal; these do.
		e.AddDetail(detail)
	}
}
