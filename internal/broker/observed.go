package broker

import (
	"cmp"
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"

	"plinth/internal/observe"
)

// Observed returns a broker whose publishing counts as time of the call that it is for. system is its name in spans, such as
// rabbitmq.
func Observed(b Broker, system string) Broker { return observed{b, system} }

type observed struct {
	Broker
	system string
}

func (o observed) begin(ctx context.Context, to Address, messages int) (context.Context, observe.Step) {
	ctx, step := observe.Begin(ctx, observe.Broker, "send")
	if step.Records() {
		step.Describe(attribute.String("messaging.system", o.system), attribute.String("messaging.operation.name", "send"),
			attribute.String("messaging.operation.type", "send"), attribute.String("messaging.destination.name", cmp.Or(to.Queue, to.Topic)),
			attribute.Int("messaging.batch.message_count", messages))
	}
	return ctx, step
}

func (o observed) Publish(ctx context.Context, to Address, m Message) error {
	ctx, step := o.begin(ctx, to, 1)
	err := o.Broker.Publish(ctx, to, m)
	step.End(observe.Problem(err))
	return err
}

func (o observed) PublishBatch(ctx context.Context, batch []Publication) []error {
	if len(batch) == 0 {
		return o.Broker.PublishBatch(ctx, batch)
	}
	ctx, step := o.begin(ctx, batch[0].To, len(batch))
	outcomes := o.Broker.PublishBatch(ctx, batch)
	step.End(observe.Problem(errors.Join(outcomes...)))
	return outcomes
}
