package message

import (
	"context"
	"errors"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// explainRefusals finds out from db why the broker did not take messages of a batch.
func (s *Service) explainRefusals(ctx context.Context, db pg.Querier, batch []*envelope, outcomes []error) {
	found := map[tenantDestination]error{}
	for i, m := range batch {
		if !errors.Is(outcomes[i], broker.ErrFull) {
			continue
		}
		at := tenantDestination{m.tenant, m.to}
		if _, done := found[at]; !done {
			found[at] = whyRefused(auth.AsService(ctx, m.tenant), db, m.to)
		}
		outcomes[i] = found[at]
	}
}

// whyRefused returns why the broker did not take a message. RabbitMQ refuses for a queue that is full in the same way as for
// one that is being deleted or has no leader; a queue can only be full if it has a max_length.
func whyRefused(ctx context.Context, db pg.Querier, to Destination) error {
	queues := []QueueName{to.queue}
	if to.topic != "" {
		tenant := auth.TenantOf(ctx)
		bindings, err := selectMatching(ctx, db, map[tenantDestination]bool{{tenant, to}: true})
		if err != nil {
			return err
		}
		if queues = queuesOf(matching(bindings[tenantTopic{tenant, to.topic}], to.routingKey)); len(queues) == 0 {
			return broker.ErrNoQueue
		}
	}
	there, limited, err := selectLimited(ctx, db, queues)
	switch {
	case err != nil:
		return err
	case there == 0:
		return broker.ErrNoQueue
	case limited == 0:
		return errs.New(errs.Unavailable, "the message broker does not take messages for the queue now; try again")
	default:
		return broker.ErrFull
	}
}
