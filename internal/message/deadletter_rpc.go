package message

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

func (r *RPC) ListDeadLetters(ctx context.Context, req *messagev1.ListDeadLettersRequest) (*messagev1.ListDeadLettersResponse, error) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	filter, err := filterFromProto(req.GetFilter())
	if err != nil {
		return nil, err
	}
	letters, next, err := r.service.ListDeadLetters(ctx, queue, filter, int(req.GetPageSize()), req.GetPageToken())
	return &messagev1.ListDeadLettersResponse{DeadLetters: rpc.SliceToProto(letters, deadLetterToProto), NextPageToken: next}, err
}

func (r *RPC) GetDeadLetter(ctx context.Context, req *messagev1.GetDeadLetterRequest) (*messagev1.DeadLetter, error) {
	d, err := r.service.GetDeadLetter(ctx, req.GetId())
	return deadLetterToProto(d), err
}

func (r *RPC) RedriveDeadLetters(ctx context.Context, req *messagev1.RedriveDeadLettersRequest) (*messagev1.RedriveDeadLettersResponse, error) {
	queue, which, err := choiceFromProto(req)
	if err != nil {
		return nil, err
	}
	op, skipped, err := r.service.RedriveDeadLetters(ctx, queue, which, int(req.GetMaxPerSecond()))
	if err != nil {
		return nil, err
	}
	res := &messagev1.RedriveDeadLettersResponse{Count: op.Total, Skipped: skippedToProto(skipped)}
	if which.DryRun {
		res.Token = op.ID
	} else {
		res.Operation = operationToProto(op)
	}
	return res, nil
}

func (r *RPC) PurgeDeadLetters(ctx context.Context, req *messagev1.PurgeDeadLettersRequest) (*messagev1.PurgeDeadLettersResponse, error) {
	queue, which, err := choiceFromProto(req)
	if err != nil {
		return nil, err
	}
	op, skipped, err := r.service.PurgeDeadLetters(ctx, queue, which)
	if err != nil {
		return nil, err
	}
	res := &messagev1.PurgeDeadLettersResponse{Count: op.Total, Skipped: skippedToProto(skipped)}
	if which.DryRun {
		res.Token = op.ID
	} else {
		res.Operation = operationToProto(op)
	}
	return res, nil
}

func (r *RPC) GetDeadLetterOperation(ctx context.Context, req *messagev1.GetDeadLetterOperationRequest) (*messagev1.DeadLetterOperation, error) {
	op, err := r.service.GetDeadLetterOperation(ctx, req.GetId())
	return operationToProto(op), err
}

func (r *RPC) ListDeadLetterOperations(ctx context.Context, req *messagev1.ListDeadLetterOperationsRequest) (
	*messagev1.ListDeadLetterOperationsResponse, error,
) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	operations, next, err := r.service.ListDeadLetterOperations(ctx, queue, int(req.GetPageSize()), req.GetPageToken())
	return &messagev1.ListDeadLetterOperationsResponse{Operations: rpc.SliceToProto(operations, operationToProto), NextPageToken: next}, err
}

// choiceRequest has the fields that redrives and purges share.
type choiceRequest interface {
	GetQueue() string
	GetIds() []string
	GetFilter() *messagev1.DeadLetterFilter
	GetToken() string
	GetDryRun() bool
}

func choiceFromProto(req choiceRequest) (queue QueueName, which Choice, err error) {
	if queue, err = ParseQueueName(req.GetQueue()); err != nil {
		return queue, which, err
	}
	which = Choice{IDs: req.GetIds(), Token: req.GetToken(), DryRun: req.GetDryRun()}
	if req.GetFilter() != nil {
		filter, err := filterFromProto(req.GetFilter())
		which.Filter = &filter
		return queue, which, err
	}
	return queue, which, nil
}

func filterFromProto(f *messagev1.DeadLetterFilter) (filter Filter, err error) {
	filter.Reason = f.GetReason()
	if filter.FailedAfter, err = rpc.TimeFromProto("filter.start_time", f.GetStartTime()); err != nil {
		return filter, err
	}
	filter.FailedBefore, err = rpc.TimeFromProto("filter.end_time", f.GetEndTime())
	return filter, err
}

func deadLetterToProto(d DeadLetter) *messagev1.DeadLetter {
	return &messagev1.DeadLetter{
		Id: d.ID, Queue: d.Queue.String(), MessageId: d.MessageID, Reason: d.Reason, Attempts: int32(d.Attempts),
		FirstFailureTime: timestamppb.New(d.FirstFailedAt), LastFailureTime: timestamppb.New(d.LastFailedAt),
		PublishTime: rpc.TimeToProto(d.PublishedAt()), Payload: d.Body, Attributes: d.Attributes,
	}
}

func skippedToProto(s Skipped) (res []*messagev1.SkippedDeadLetters) {
	if s.NotFound > 0 {
		res = append(res, &messagev1.SkippedDeadLetters{Reason: "not_found", Count: s.NotFound})
	}
	if s.InOperation > 0 {
		res = append(res, &messagev1.SkippedDeadLetters{Reason: "in_operation", Count: s.InOperation})
	}
	return res
}

var (
	operationKinds = map[OperationKind]messagev1.DeadLetterOperationKind{
		Redrive: messagev1.DeadLetterOperationKind_DEAD_LETTER_OPERATION_KIND_REDRIVE,
		Purge:   messagev1.DeadLetterOperationKind_DEAD_LETTER_OPERATION_KIND_PURGE,
	}
	operationStates = map[OperationState]messagev1.DeadLetterOperationState{
		Planned: messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_PLANNED,
		Running: messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_RUNNING,
		Done:    messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_DONE,
	}
)

func operationToProto(op Operation) *messagev1.DeadLetterOperation {
	return &messagev1.DeadLetterOperation{
		Id: op.ID, Kind: operationKinds[op.Kind], Queue: op.Queue.String(), State: operationStates[op.State],
		Total: op.Total, Done: op.Done, Skipped: op.Skipped, MaxPerSecond: int32(op.MaxPerSecond),
		Principal: op.Principal, CreateTime: timestamppb.New(op.CreatedAt), EndTime: rpc.TimeToProto(op.EndedAt),
	}
}
