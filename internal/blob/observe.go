package blob

import (
	"context"
	"errors"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"go.opentelemetry.io/otel/attribute"

	"plinth/internal/observe"
)

// observed counts the time of requests, to the header of the answer, as that of the call that they are for.
func observed(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("Observe", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		operation := awsmiddleware.GetOperationName(ctx)
		ctx, step := observe.Begin(ctx, observe.S3, operation)
		if step.Records() {
			step.Describe(attribute.String("rpc.system.name", "aws-api"), attribute.String("rpc.method", "S3/"+operation))
		}
		out, metadata, err := next.HandleInitialize(ctx, in)
		problem := ""
		if err != nil {
			problem = "error"
			if reply := (smithy.APIError)(nil); errors.As(err, &reply) {
				problem = reply.ErrorCode()
			}
		}
		step.End(problem)
		return out, metadata, err
	}), middleware.After)
}
