package channel

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelv1 "plinth/api/plinth/channel/v1"
	"plinth/internal/rpc"
)

// RPC implements ChannelService. If a method returns an error, Connect ignores its reply.
type RPC struct{ service *Service }

var _ channelv1.ChannelServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC.
func NewRPC(service *Service) *RPC { return &RPC{service} }

func (r *RPC) Publish(ctx context.Context, req *channelv1.PublishRequest) (*channelv1.PublishResponse, error) {
	name, err := ParseName(req.GetChannel())
	if err != nil {
		return nil, err
	}
	p := Publication{Channel: name, Payload: req.GetData(), Attributes: req.GetAttributes()}
	if text, ok := req.GetPayload().(*channelv1.PublishRequest_Text); ok {
		p.Payload, p.Text = []byte(text.Text), true
	}
	id, err := r.service.Publish(ctx, p)
	if err != nil {
		return nil, err
	}
	return &channelv1.PublishResponse{Id: id.String()}, nil
}

func (r *RPC) Subscribe(ctx context.Context, req *channelv1.SubscribeRequest, stream *connect.ServerStream[channelv1.SubscribeResponse]) error {
	sub, err := subscriptionFromProto(req.GetChannels(), req.GetPatterns())
	if err != nil {
		return err
	}
	after, field := rpc.LastEventID(ctx), "Last-Event-ID"
	if after == "" {
		after, field = req.GetAfterId(), "after_id"
	}
	if after != "" {
		if sub.After, err = ParseID(field, after); err != nil {
			return err
		}
	}
	for name, id := range req.GetAfter() {
		if sub.AfterOf == nil {
			sub.AfterOf = map[string]ID{}
		}
		if sub.AfterOf[name], err = ParseID("after", id); err != nil {
			return err
		}
	}
	if err := permits(ctx, sub); err != nil {
		return err
	}
	sub.Quiet = rpc.IsEvents(ctx) // Those have comments.
	return r.service.Subscribe(ctx, sub, rpc.Finishing(ctx).Done(), func(e Event) error {
		res, data := eventToProto(e, sub.Quiet)
		rpc.NextEvent(ctx, rpc.Event{ID: res.GetId(), Data: data, More: e.More})
		return stream.Send(res)
	})
}

func (r *RPC) CreateSubscribeUrl(ctx context.Context, req *channelv1.CreateSubscribeUrlRequest) (*channelv1.CreateSubscribeUrlResponse, error) {
	sub, err := subscriptionFromProto(req.GetChannels(), req.GetPatterns())
	if err != nil {
		return nil, err
	}
	url, expires, err := r.service.CreateSubscribeUrl(ctx, sub, req.GetExpiresIn().AsDuration())
	if err != nil {
		return nil, err
	}
	return &channelv1.CreateSubscribeUrlResponse{Url: url, ExpireTime: timestamppb.New(expires)}, nil
}

func (r *RPC) GetChannel(ctx context.Context, req *channelv1.GetChannelRequest) (*channelv1.Channel, error) {
	name, err := ParseName(req.GetChannel())
	if err != nil {
		return nil, err
	}
	info, err := r.service.GetChannel(ctx, name)
	if err != nil {
		return nil, err
	}
	c := &channelv1.Channel{Name: info.Name.String(), LastId: info.LastID.String(), HistorySize: int64(info.History)}
	if info.Used {
		c.LastPublishTime = timestamppb.New(info.LastID.Time())
	}
	return c, nil
}

func subscriptionFromProto(names, patterns []string) (sub Subscription, err error) {
	sub.Channels, sub.Patterns = make([]Name, len(names)), make([]Pattern, len(patterns))
	for i, name := range names {
		if sub.Channels[i], err = ParseName(name); err != nil {
			return sub, err
		}
	}
	for i, pattern := range patterns {
		if sub.Patterns[i], err = ParsePattern(pattern); err != nil {
			return sub, err
		}
	}
	return sub, nil
}

// onWire is what becomes of a message that many streams send.
type onWire struct {
	res  *channelv1.SubscribeResponse
	json []byte // as Server-Sent Events have it
}

// eventToProto returns the response for an event, and its JSON where it is one of many streams.
func eventToProto(e Event, asJSON bool) (*channelv1.SubscribeResponse, []byte) {
	if e.Message != nil && e.ID == e.Message.ID {
		w, ok := e.Message.Wire.Load().(*onWire)
		if !ok {
			w = &onWire{res: &channelv1.SubscribeResponse{Id: e.ID.String(), Event: &channelv1.SubscribeResponse_Message{Message: messageToProto(e.Message)}}}
			w.json, _ = protojson.Marshal(w.res) // All of its texts are valid, so it cannot fail.
			e.Message.Wire.Store(w)              // Who made it at the same time made the same.
		}
		if !asJSON {
			return w.res, nil
		}
		return w.res, w.json
	}
	res := &channelv1.SubscribeResponse{}
	if !e.ID.IsZero() {
		res.Id = e.ID.String()
	}
	switch {
	case e.Message != nil:
		res.Event = &channelv1.SubscribeResponse_Message{Message: messageToProto(e.Message)}
	case !e.Subscribed.IsZero():
		res.Event = &channelv1.SubscribeResponse_Subscribed{Subscribed: &channelv1.Subscribed{LastId: e.Subscribed.String()}}
	case e.Gap != nil:
		res.Event = &channelv1.SubscribeResponse_Gap{Gap: gapToProto(e.Gap)}
	default:
		res.Event = &channelv1.SubscribeResponse_Heartbeat{Heartbeat: &channelv1.Heartbeat{Interrupted: e.Interrupted}}
	}
	return res, nil
}

func messageToProto(m *Message) *channelv1.Message {
	p := &channelv1.Message{
		Id: m.ID.String(), Channel: m.Channel.String(), Attributes: m.Attributes, PublishTime: timestamppb.New(m.ID.Time()),
	}
	if !m.Previous.IsZero() {
		p.PreviousId = m.Previous.String()
	}
	if m.Text {
		p.Payload = &channelv1.Message_Text{Text: string(m.Payload)}
	} else {
		p.Payload = &channelv1.Message_Data{Data: m.Payload}
	}
	return p
}

func gapToProto(g *Gap) *channelv1.Gap {
	reasons := map[Reason]channelv1.Gap_Reason{History: channelv1.Gap_REASON_HISTORY, RedisLost: channelv1.Gap_REASON_REDIS_LOST}
	return &channelv1.Gap{
		Channel: g.Channel.String(), AfterId: g.After.String(), BeforeId: g.Before.String(), Missed: g.Missed, Reason: reasons[g.Reason],
	}
}
