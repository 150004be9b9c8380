package message

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/rpc"
)

// Defaults of a subscription.
const (
	defaultOutstanding = 100
	defaultAckDeadline = 30 * time.Second
)

// peek is how long messages are sent to a client that half-closes right after it subscribed, and so can settle nothing.
const peek = time.Second

func (r *RPC) Consume(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
	sub, err := r.open(ctx, stream)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := stream.Send(nil); err != nil { // Send the headers, so that the client knows that it is subscribed.
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() { defer observe.LogPanic(sub.log); end(settle(ctx, stream, sub)) }()

	taking, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(rpc.Finishing(ctx), stop)()
	if rpc.Finishing(ctx).Err() != nil {
		stop() // At once: the one above runs a moment later, and Next could take a message until then.
	}
	for {
		batch, err := sub.Next(taking)
		switch {
		case err == nil:
			if err := stream.Send(&messagev1.ConsumeResponse{Messages: rpc.SliceToProto(batch, messageToProto)}); err != nil {
				sub.Undelivered(batch)
				return err
			}
		case ctx.Err() != nil: // The client half-closed, went away or sent something bad.
			if cause := context.Cause(ctx); !errors.Is(cause, io.EOF) {
				return cause
			}
			return nil
		case taking.Err() != nil: // The server stops.
			grace, cancel := context.WithTimeout(ctx, r.grace)
			defer cancel()
			sub.Settled(grace)
			sub.Stopping()
			return nil
		default:
			return err
		}
	}
}

// open reads the first message of a stream, which must be a subscribe request.
func (r *RPC) open(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) (*Subscription, error) {
	req, err := stream.Receive()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	opening := req.GetSubscribe()
	if opening == nil {
		return nil, errs.New(errs.InvalidArgument, "subscribe: it must be the first message of the stream")
	}
	queue, err := ParseQueueName(opening.GetQueue())
	if err != nil {
		return nil, err
	}
	outstanding, deadline := int(opening.GetMaxOutstanding()), opening.GetAckDeadline().AsDuration()
	if outstanding == 0 {
		outstanding = defaultOutstanding
	}
	if deadline == 0 {
		deadline = defaultAckDeadline
	}
	return r.service.Consume(ctx, queue, outstanding, deadline)
}

// settle carries out the requests of the client until the stream ends, and returns why it ended: io.EOF for a half-close.
func settle(ctx context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse], sub *Subscription) error {
	settled := false
	for {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) && !settled {
			select {
			case <-time.After(peek):
			case <-ctx.Done():
			}
		}
		if err != nil {
			return err
		}
		settled = true
		switch req := req.GetRequest().(type) {
		case *messagev1.ConsumeRequest_Ack:
			sub.Ack(req.Ack.GetIds())
		case *messagev1.ConsumeRequest_Nack:
			sub.Nack(nacksFromProto(req.Nack.GetItems()))
		case *messagev1.ConsumeRequest_Extend:
			sub.Extend(req.Extend.GetIds(), req.Extend.GetAckDeadline().AsDuration())
		default:
			return errs.New(errs.InvalidArgument, "subscribe: the stream is subscribed already; send ack, nack or extend")
		}
	}
}

func nacksFromProto(items []*messagev1.NackItem) []Nack {
	nacks := make([]Nack, len(items))
	for i, item := range items {
		nacks[i] = Nack{ID: item.GetId(), Reason: item.GetReason()}
		if item.Delay != nil { // A delay of 0 s is valid, too.
			delay := item.GetDelay().AsDuration()
			nacks[i].Delay = &delay
		}
	}
	return nacks
}

func messageToProto(m Message) *messagev1.Message {
	return &messagev1.Message{
		Id: m.ID, Attempt: int32(m.Attempt), Payload: m.Body, Attributes: m.Attributes,
		PublishTime: timestamppb.New(m.PublishedAt()),
	}
}
