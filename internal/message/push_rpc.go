package message

import (
	"maps"

	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/resource"
	"plinth/internal/rpc"
)

func pushFromProto(p *messagev1.Push) (*Push, error) {
	if p == nil {
		return nil, nil
	}
	until, err := rpc.TimeFromProto("push.previous_secret_expire_time", p.GetPreviousSecretExpireTime())
	return &Push{
		URL: p.GetUrl(), Timeout: p.GetTimeout().AsDuration(), MaxOutstanding: int(p.GetMaxOutstanding()), Headers: p.GetHeaders(),
		Secret: p.GetSecret(), PreviousUntil: until, RetryRejected: p.GetRetryRejected(),
	}, err
}

// pushFields are the parts of a push that an update_mask may name. Where it does not, the push is changed as a whole.
func pushFields(wanted *Push) map[string]resource.Field[Policy] {
	if wanted == nil {
		wanted = &Push{}
	}
	part := func(copy func(*Push)) resource.Field[Policy] {
		return resource.Field[Policy]{Copy: func(p *Policy) { p.EditPush(copy) }}
	}
	return map[string]resource.Field[Policy]{
		"push.url":                         part(func(p *Push) { p.URL = wanted.URL }),
		"push.timeout":                     part(func(p *Push) { p.Timeout = wanted.Timeout }),
		"push.max_outstanding":             part(func(p *Push) { p.MaxOutstanding = wanted.MaxOutstanding }),
		"push.headers":                     part(func(p *Push) { p.Headers = maps.Clone(wanted.Headers) }),
		"push.secret":                      part(func(p *Push) { p.Secret = wanted.Secret }),
		"push.previous_secret_expire_time": part(func(p *Push) { p.PreviousUntil = wanted.PreviousUntil }),
		"push.retry_rejected":              part(func(p *Push) { p.RetryRejected = wanted.RetryRejected }),
	}
}

func pushToProto(p *Push) *messagev1.Push {
	if p == nil {
		return nil
	}
	return &messagev1.Push{
		Url: p.URL, Timeout: durationpb.New(p.Timeout), MaxOutstanding: int32(p.MaxOutstanding), Headers: p.Headers, Secret: p.Secret,
		PreviousSecretExpireTime: rpc.TimeToProto(p.PreviousUntil), RetryRejected: p.RetryRejected,
	}
}

func breakerToProto(state string) messagev1.PushBreaker {
	switch state {
	case breakerOpen:
		return messagev1.PushBreaker_PUSH_BREAKER_OPEN
	case breakerHalfOpen:
		return messagev1.PushBreaker_PUSH_BREAKER_HALF_OPEN
	default:
		return messagev1.PushBreaker_PUSH_BREAKER_CLOSED
	}
}

func pushStatusToProto(s *PushStatus) *messagev1.PushStatus {
	if s == nil {
		return nil
	}
	return &messagev1.PushStatus{
		Breaker: breakerToProto(s.Breaker), ResumeTime: rpc.TimeToProto(s.ResumeAt), Outstanding: int32(s.Outstanding), Concurrency: int32(s.Concurrency),
		Latency: unlessNone(s.Latency), LastSuccessTime: rpc.TimeToProto(s.LastSuccessAt), LastError: s.LastError,
		LastErrorTime: rpc.TimeToProto(s.LastErrorAt),
	}
}
