package message

import (
	"context"
	"fmt"
	"strings"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// ownPrefix begins the topics of Own. No topic of a client can.
const ownPrefix = "!"

// Own returns a destination within this service: a message that is published to it in a transaction, or with a delay, is a waiting
// row like any other, but when it is due the relay calls deliver, for the message's tenant, and not the broker. Each message is
// delivered at least once; one whose delivery fails is tried again until it does not. No quota refuses it. It must be called before
// the Relay runs, in every process.
func (s *Service) Own(name string, deliver func(ctx context.Context, body []byte) error) Destination {
	s.own[ownPrefix+name] = deliver
	return Destination{topic: ownPrefix + name}
}

func (d Destination) isOwn() bool { return strings.HasPrefix(d.topic, ownPrefix) }

// CancelOwn cancels those of the messages of the tenant of ctx that are to this service itself, and wait and are not being delivered.
func (s *Service) CancelOwn(ctx context.Context, ids []string) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error { return deleteOwn(ctx, tx, ids) })
}

// sendDue sends a batch of due messages, each to the broker or to this service itself, and returns the error of each.
func (r *relay) sendDue(ctx context.Context, batch []*envelope) []error {
	outcomes, taken := r.service.makeRoom(ctx, batch)
	defer r.service.sent(ctx, taken...)
	others, places := make([]*envelope, 0, len(batch)), make([]int, 0, len(batch))
	for i, m := range batch {
		switch {
		case m.fault != nil:
			outcomes[i] = m.fault
		case outcomes[i] != nil:
		case m.to.isOwn():
			outcomes[i] = r.service.deliverOwn(ctx, m)
		default:
			others, places = append(others, m), append(places, i)
		}
	}
	if len(others) > 0 {
		for n, err := range r.service.sendBatch(ctx, r.system, others, patience{relayPatience, &r.declaring}, r.declare) {
			outcomes[places[n]] = err
		}
	}
	return outcomes
}

func (s *Service) deliverOwn(ctx context.Context, m *envelope) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	deliver := s.own[m.to.topic]
	if deliver == nil {
		return errs.New(errs.Unavailable, "no part of this process takes %s", m.to.topic)
	}
	return deliver(auth.AsService(ctx, m.tenant), m.body)
}
