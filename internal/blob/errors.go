package blob

import (
	"context"
	"errors"
	"net/http"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"plinth/internal/errs"
)

// refusedRetry is how long retrying is of no use where somebody has to mend something.
const refusedRetry = 30 * time.Second

// classify returns an error of the SDK as one of the kinds that the package comment lists.
func classify(ctx context.Context, err error) error {
	var known *errs.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var reply *awshttp.ResponseError
	if !errors.As(err, &reply) {
		return away(err)
	}
	var named smithy.APIError
	code := ""
	if errors.As(err, &named) {
		code = named.ErrorCode()
	}
	switch status := reply.HTTPStatusCode(); {
	case code == "NoSuchBucket":
		return refused(err)
	case status == http.StatusNotFound:
		return errs.Wrap(err, errs.NotFound, "there is no such content")
	case status == http.StatusPreconditionFailed, status == http.StatusConflict, status == http.StatusNotModified:
		return errs.Wrap(err, errs.FailedPrecondition, "the content is not what is asked for")
	case status == http.StatusRequestedRangeNotSatisfiable:
		return lost(err)
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status < 300:
		return away(err) // A status below 300 is an error within a reply that had begun.
	case code == "SlowDown", code == "RequestTimeout", code == "RequestTimeTooSkewed", code == "IncompleteBody":
		return away(err)
	default:
		return refused(err)
	}
}

func away(cause error) error {
	return errs.Wrap(cause, errs.Unavailable, "the storage of the files does not answer at the moment; try again")
}

func refused(cause error) error {
	return errs.Wrap(cause, errs.Unavailable, "the storage of the files refuses to serve at the moment").After(refusedRetry)
}

// lost is the error of bytes that are no longer those that were stored.
func lost(cause error) error {
	return errs.Wrap(cause, errs.DataLoss, "the content of the file is no longer what was stored")
}

var errStalled = away(errors.New("no byte went through for " + stallLimit.String()))
