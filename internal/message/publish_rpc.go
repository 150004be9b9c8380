package message

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

func (r *RPC) Publish(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	p, err := publicationFromProto(req)
	if err != nil {
		return nil, err
	}
	receipt, err := r.service.Publish(ctx, p)
	if err != nil {
		return nil, err
	}
	return &messagev1.PublishResponse{Id: receipt.ID, Duplicate: receipt.Duplicate}, nil
}

// PublishBatch treats each message as a separate call, including its validation.
func (r *RPC) PublishBatch(ctx context.Context, req *messagev1.PublishBatchRequest) (*messagev1.PublishBatchResponse, error) {
	results := make([]*messagev1.PublishResult, len(req.GetMessages()))
	batch, places := make([]Publication, 0, len(results)), make([]int, 0, len(results))
	for i, message := range req.GetMessages() {
		p, err := checkedPublication(message)
		if err != nil {
			results[i] = failed(ctx, err)
			continue
		}
		batch, places = append(batch, p), append(places, i)
	}
	for n, result := range r.service.PublishBatch(ctx, batch) {
		if result.Err != nil {
			results[places[n]] = failed(ctx, result.Err)
			continue
		}
		results[places[n]] = &messagev1.PublishResult{Id: result.ID, Duplicate: result.Duplicate}
	}
	return &messagev1.PublishBatchResponse{Results: results}, nil
}

func checkedPublication(message *messagev1.PublishRequest) (Publication, error) {
	if err := rpc.Validate(message); err != nil {
		return Publication{}, err
	}
	return publicationFromProto(message)
}

func failed(ctx context.Context, err error) *messagev1.PublishResult {
	code, message := rpc.PartError(ctx, err)
	return &messagev1.PublishResult{Error: &messagev1.PublishError{Code: code, Message: message}}
}

func publicationFromProto(req *messagev1.PublishRequest) (p Publication, err error) {
	if topic := req.GetTopic(); topic != "" {
		p.To, err = ToTopic(topic, req.GetRoutingKey())
	} else {
		p.To.queue, err = ParseQueueName(req.GetQueue())
	}
	p.Body = req.GetData()
	if text, ok := req.GetPayload().(*messagev1.PublishRequest_Message); ok {
		p.Body = []byte(text.Message)
	}
	switch when := req.GetWhen().(type) {
	case *messagev1.PublishRequest_Delay:
		p.Delay = when.Delay.AsDuration()
	case *messagev1.PublishRequest_DeliverTime:
		p.DeliverAt = when.DeliverTime.AsTime()
	}
	p.Attributes, p.IdempotencyKey = req.GetAttributes(), req.GetIdempotencyKey()
	return p, err
}

func (r *RPC) GetMessage(ctx context.Context, req *messagev1.GetMessageRequest) (*messagev1.WaitingMessage, error) {
	m, err := r.service.GetMessage(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return &messagev1.WaitingMessage{
		Id: m.ID, Queue: m.Queue.String(), Topic: m.Topic, RoutingKey: m.RoutingKey, DeliverTime: timestamppb.New(m.DeliverAt),
		Attempts: int32(m.Attempts), Reason: m.Reason, Payload: m.Body, Attributes: m.Attributes,
		PublishTime: timestamppb.New(Message{ID: m.ID}.PublishedAt()),
	}, nil
}

func (r *RPC) CancelMessage(ctx context.Context, req *messagev1.CancelMessageRequest) (*messagev1.CancelMessageResponse, error) {
	return &messagev1.CancelMessageResponse{}, r.service.CancelMessage(ctx, req.GetId())
}
