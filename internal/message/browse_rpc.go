package message

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

var views = map[messagev1.MessageView]View{
	messagev1.MessageView_MESSAGE_VIEW_WAITING: Waiting, messagev1.MessageView_MESSAGE_VIEW_PULLED: PulledView,
}

func (r *RPC) ListMessages(ctx context.Context, req *messagev1.ListMessagesRequest) (*messagev1.ListMessagesResponse, error) {
	queue, err := ParseQueueName(req.GetQueue())
	if err != nil {
		return nil, err
	}
	list, next, err := r.service.ListMessages(ctx, queue, views[req.GetView()], int(req.GetPageSize()), req.GetPageToken())
	return &messagev1.ListMessagesResponse{Messages: rpc.SliceToProto(list, queuedToProto), NextPageToken: next}, err
}

func queuedToProto(m QueuedMessage) *messagev1.QueuedMessage {
	res := &messagev1.QueuedMessage{
		Id: m.ID, Attempts: int32(m.Attempts), Reason: m.Reason, Payload: m.Body, Attributes: m.Attributes,
		PublishTime: timestamppb.New(Message{ID: m.ID}.PublishedAt()),
	}
	if !m.DueAt.IsZero() {
		res.DueTime = timestamppb.New(m.DueAt)
	}
	return res
}

func (r *RPC) WatchQueue(ctx context.Context, req *messagev1.WatchQueueRequest, stream *connect.ServerStream[messagev1.QueueStatus]) error {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return err
	}
	finishing := rpc.Finishing(ctx)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(finishing, stop)()
	err = r.service.WatchQueue(watching, name, func(s Status) error { return stream.Send(statusToProto(s)) })
	if finishing.Err() != nil && ctx.Err() == nil { // The server stops.
		return nil
	}
	return err
}

func statusToProto(s Status) *messagev1.QueueStatus {
	res := &messagev1.QueueStatus{
		Name: s.Queue.String(), ReadTime: timestamppb.New(s.At), Depth: s.Stats.Depth, Outstanding: s.Outstanding, Pulled: s.Stats.Pulled,
		Waiting: s.Stats.Waiting, DeadLetters: s.Stats.DeadLetters, Rates: ratesToProto(s.Stats.Rates), Paused: s.Paused,
	}
	if s.OldestAge != nil {
		res.OldestAge = durationpb.New(*s.OldestAge)
	}
	return res
}
