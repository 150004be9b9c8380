package message

import (
	"context"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/resource"
	"plinth/internal/rpc"
)

func (r *RPC) CreateQueue(ctx context.Context, req *messagev1.CreateQueueRequest) (*messagev1.Queue, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	policy, err := policyFromProto(req)
	if err != nil {
		return nil, err
	}
	q, err := r.service.CreateQueue(ctx, name, policy)
	return queueToProto(q), err
}

func (r *RPC) GetQueue(ctx context.Context, req *messagev1.GetQueueRequest) (*messagev1.Queue, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	q, err := r.service.GetQueue(ctx, name)
	return queueToProto(q), err
}

func (r *RPC) ListQueues(ctx context.Context, req *messagev1.ListQueuesRequest) (*messagev1.ListQueuesResponse, error) {
	queues, next, err := r.service.ListQueues(ctx, int(req.GetPageSize()), req.GetPageToken())
	return &messagev1.ListQueuesResponse{Queues: rpc.SliceToProto(queues, queueToProto), NextPageToken: next}, err
}

func (r *RPC) UpdateQueue(ctx context.Context, req *messagev1.UpdateQueueRequest) (*messagev1.Queue, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	change, err := changeFromProto(req)
	if err != nil {
		return nil, err
	}
	q, err := r.service.UpdateQueue(ctx, name, change)
	return queueToProto(q), err
}

func (r *RPC) DeleteQueue(ctx context.Context, req *messagev1.DeleteQueueRequest) (*messagev1.DeleteQueueResponse, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	return &messagev1.DeleteQueueResponse{}, r.service.DeleteQueue(ctx, name)
}

func (r *RPC) PauseQueue(ctx context.Context, req *messagev1.PauseQueueRequest) (*messagev1.Queue, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	q, err := r.service.PauseQueue(ctx, name)
	return queueToProto(q), err
}

func (r *RPC) ResumeQueue(ctx context.Context, req *messagev1.ResumeQueueRequest) (*messagev1.Queue, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	q, err := r.service.ResumeQueue(ctx, name)
	return queueToProto(q), err
}

func (r *RPC) PurgeQueue(ctx context.Context, req *messagev1.PurgeQueueRequest) (*messagev1.PurgeQueueResponse, error) {
	name, err := ParseQueueName(req.GetName())
	if err != nil {
		return nil, err
	}
	n, err := r.service.PurgeQueue(ctx, name)
	return &messagev1.PurgeQueueResponse{Purged: n}, err
}

// policyRequest has the fields of a policy, which CreateQueue and UpdateQueue share.
type policyRequest interface {
	GetMaxAttempts() int32
	GetMinBackoff() *durationpb.Duration
	GetMaxBackoff() *durationpb.Duration
	GetMessageTtl() *durationpb.Duration
	GetMaxLength() int64
	GetDeadLetterRetention() *durationpb.Duration
	GetBindings() []*messagev1.Binding
	GetPush() *messagev1.Push
}

func policyFromProto(req policyRequest) (Policy, error) {
	push, err := pushFromProto(req.GetPush())
	p := Policy{
		MaxAttempts: int(req.GetMaxAttempts()), MinBackoff: req.GetMinBackoff().AsDuration(), MaxBackoff: req.GetMaxBackoff().AsDuration(),
		MessageTTL: req.GetMessageTtl().AsDuration(), MaxLength: req.GetMaxLength(),
		DeadLetterRetention: req.GetDeadLetterRetention().AsDuration(), Push: push,
	}
	for _, b := range req.GetBindings() {
		p.Bindings = append(p.Bindings, Binding{b.GetTopic(), b.GetPattern()})
	}
	return p, err
}

func changeFromProto(req *messagev1.UpdateQueueRequest) (func(*Policy), error) {
	wanted, err := policyFromProto(req)
	if err != nil {
		return nil, err
	}
	fields := map[string]resource.Field[Policy]{
		"max_attempts":          {Set: req.GetMaxAttempts() != 0, Copy: func(p *Policy) { p.MaxAttempts = wanted.MaxAttempts }},
		"min_backoff":           {Set: req.MinBackoff != nil, Copy: func(p *Policy) { p.MinBackoff = wanted.MinBackoff }},
		"max_backoff":           {Set: req.MaxBackoff != nil, Copy: func(p *Policy) { p.MaxBackoff = wanted.MaxBackoff }},
		"message_ttl":           {Set: req.MessageTtl != nil, Copy: func(p *Policy) { p.MessageTTL = wanted.MessageTTL }},
		"max_length":            {Set: req.GetMaxLength() != 0, Copy: func(p *Policy) { p.MaxLength = wanted.MaxLength }},
		"dead_letter_retention": {Set: req.DeadLetterRetention != nil, Copy: func(p *Policy) { p.DeadLetterRetention = wanted.DeadLetterRetention }},
		"bindings":              {Set: len(req.Bindings) > 0, Copy: func(p *Policy) { p.Bindings = wanted.Bindings }},
		"push":                  {Set: req.Push != nil, Copy: func(p *Policy) { p.Replace(wanted.Push) }},
	}
	maps.Copy(fields, pushFields(wanted.Push))
	return resource.Change("queue", req.GetUpdateMask().GetPaths(), fields)
}

func queueToProto(q Queue) *messagev1.Queue {
	res := &messagev1.Queue{
		Name: q.Name.String(), CreateTime: timestamppb.New(q.CreatedAt), Paused: q.Paused,
		MaxAttempts: int32(q.MaxAttempts), MinBackoff: durationpb.New(q.MinBackoff), MaxBackoff: durationpb.New(q.MaxBackoff),
		MessageTtl: unlessNone(q.MessageTTL), MaxLength: q.MaxLength, DeadLetterRetention: durationpb.New(q.DeadLetterRetention),
		Bindings: rpc.SliceToProto(q.Bindings, bindingToProto), Push: pushToProto(q.Push), PushStatus: pushStatusToProto(q.PushStatus),
	}
	if s := q.Stats; s != nil {
		res.Depth, res.Waiting, res.Pulled, res.DeadLetters = &s.Depth, &s.Waiting, &s.Pulled, &s.DeadLetters
		res.Rates = ratesToProto(s.Rates)
	}
	return res
}

func ratesToProto(r Rates) *messagev1.QueueRates {
	return &messagev1.QueueRates{Published: r.Published, Delivered: r.Delivered, Acknowledged: r.Acknowledged}
}

func bindingToProto(b Binding) *messagev1.Binding {
	return &messagev1.Binding{Topic: b.Topic, Pattern: b.Pattern}
}

// unlessNone returns nil for 0, so that the field is not set.
func unlessNone(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
