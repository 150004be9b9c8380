package message

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

func (r *RPC) Pull(ctx context.Context, req *messagev1.PullRequest) (*messagev1.PullResponse, error) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	pulled, err := r.service.Pull(ctx, PullRequest{
		Queue: queue, Max: max(1, int(req.GetMaxMessages())), Wait: req.GetWait().AsDuration(),
		AckDeadline: cmp.Or(req.GetAckDeadline().AsDuration(), defaultAckDeadline), Finishing: rpc.Finishing(ctx).Done(),
	})
	return &messagev1.PullResponse{Messages: rpc.SliceToProto(pulled, pulledToProto)}, err
}

func (r *RPC) Ack(ctx context.Context, req *messagev1.AckRequest) (*messagev1.AckResponse, error) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	results, err := r.service.Ack(ctx, queue, req.GetReceipts())
	return &messagev1.AckResponse{Results: settledToProto(ctx, req.GetReceipts(), results)}, err
}

func (r *RPC) Nack(ctx context.Context, req *messagev1.NackRequest) (*messagev1.NackResponse, error) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	var delay *time.Duration
	if req.Delay != nil { // A delay of 0 s is valid, too.
		d := req.GetDelay().AsDuration()
		delay = &d
	}
	results, err := r.service.Nack(ctx, queue, req.GetReceipts(), delay, req.GetReason())
	return &messagev1.NackResponse{Results: settledToProto(ctx, req.GetReceipts(), results)}, err
}

func (r *RPC) Extend(ctx context.Context, req *messagev1.ExtendRequest) (*messagev1.ExtendResponse, error) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	deadline := cmp.Or(req.GetAckDeadline().AsDuration(), defaultAckDeadline)
	results, err := r.service.Extend(ctx, queue, req.GetReceipts(), deadline)
	return &messagev1.ExtendResponse{Results: settledToProto(ctx, req.GetReceipts(), results)}, err
}

func pulledToProto(m Pulled) *messagev1.PulledMessage {
	return &messagev1.PulledMessage{
		Receipt: m.Receipt, Id: m.ID, Attempt: int32(m.Attempt), Payload: m.Body, Attributes: m.Attributes,
		PublishTime: timestamppb.New(m.PublishedAt()),
	}
}

// settledToProto returns the result of each receipt.
func settledToProto(ctx context.Context, receipts []string, failures []error) []*messagev1.SettleResult {
	results := make([]*messagev1.SettleResult, len(failures))
	for i, err := range failures {
		results[i] = &messagev1.SettleResult{Receipt: receipts[i]}
		if err != nil {
			code, message := rpc.PartError(ctx, err)
			results[i].Error = &messagev1.SettleError{Code: code, Message: message}
		}
	}
	return results
}
