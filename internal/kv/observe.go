package kv

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"

	"plinth/internal/observe"
)

// observed counts the time of commands as that of the call that they are for.
type observed struct{}

var _ redis.Hook = observed{}

// DialHook implements redis.Hook.
func (observed) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (observed) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, step := begin(ctx, cmd.Name())
		err := next(ctx, cmd)
		step.End(problemOf(err))
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (observed) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		ctx, step := begin(ctx, "pipeline")
		err := next(ctx, cmds)
		step.End(problemOf(err))
		return err
	}
}

// begin begins a step. Its span has the name of the command, and neither keys nor values.
func begin(ctx context.Context, command string) (context.Context, observe.Step) {
	ctx, step := observe.Begin(ctx, observe.Redis, command)
	if step.Records() {
		step.Describe(attribute.String("db.system.name", "redis"), attribute.String("db.operation.name", command))
	}
	return ctx, step
}

// problemOf returns what a span says of an error.
func problemOf(err error) string {
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return ""
	case Away(err):
		return "unavailable"
	}
	return "refused"
}
