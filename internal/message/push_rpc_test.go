package message_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
)

// The parts of a push are set, changed by their paths, and read, but for what is secret.
func TestPushOnTheWire(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	ctx, c := within(t), e.client(connect.WithProtoJSON())
	q, err := c.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: "q", Push: &messagev1.Push{
		Url: "https://example.com/a", Timeout: durationpb.New(time.Second), MaxOutstanding: 3, Headers: map[string]string{"X": "1"}, RetryRejected: true,
	}})
	want := &messagev1.Push{
		Url: "https://example.com/a", Timeout: durationpb.New(time.Second), MaxOutstanding: 3, Headers: map[string]string{"X": "[redacted]"}, RetryRejected: true,
		Secret: q.GetPush().GetSecret(),
	}
	if err != nil || !proto.Equal(q.GetPush(), want) || !strings.HasPrefix(want.GetSecret(), "whsec_") {
		t.Fatalf("created %v %v", q, err)
	}
	want.Secret = ""
	update := func(push *messagev1.Push, paths ...string) *messagev1.Push {
		t.Helper()
		req := &messagev1.UpdateQueueRequest{Name: "q", Push: push}
		if paths != nil {
			req.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
		}
		got, err := c.UpdateQueue(ctx, req)
		if err != nil || !proto.Equal(got.GetPush(), want) {
			t.Errorf("%v %v: %v %v, want %v", push, paths, got.GetPush(), err, want)
		}
		return got.GetPush()
	}
	update(nil)
	want.Url = "https://example.com/b"
	update(&messagev1.Push{Url: want.Url, MaxOutstanding: 9}, "push.url")
	want.MaxOutstanding, want.Timeout, want.RetryRejected = 16, durationpb.New(5*time.Second), false
	update(nil, "push.max_outstanding", "push.timeout", "push.retry_rejected")
	want.Headers = map[string]string{"X": "[redacted]", "Y": "[redacted]"}
	update(&messagev1.Push{Headers: map[string]string{"X": "[redacted]", "Y": "2"}}, "push.headers")
	want.Secret, want.PreviousSecretExpireTime = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", timestamppb.New(time.Now().Add(time.Hour).Truncate(time.Second))
	update(&messagev1.Push{Secret: want.Secret, PreviousSecretExpireTime: want.PreviousSecretExpireTime}, "push.secret", "push.previous_secret_expire_time")
	want.Secret = ""
	update(nil, "max_attempts")
	want.PreviousSecretExpireTime = nil
	update(nil, "push.previous_secret_expire_time")
	want = &messagev1.Push{Url: "https://example.com/c", Timeout: durationpb.New(5 * time.Second), MaxOutstanding: 16}
	update(&messagev1.Push{Url: want.Url})

	page, err := c.ListQueues(ctx, &messagev1.ListQueuesRequest{})
	if err != nil || !proto.Equal(page.GetQueues()[0].GetPush(), want) || page.GetQueues()[0].GetPushStatus() != nil {
		t.Errorf("%v %v", page, err)
	}
	got, err := c.GetQueue(ctx, &messagev1.GetQueueRequest{Name: "q"})
	if err != nil || !proto.Equal(got.GetPush(), want) || got.GetPushStatus().GetBreaker() != messagev1.PushBreaker_PUSH_BREAKER_CLOSED {
		t.Errorf("%v %v", got, err)
	}
	if _, err := c.UpdateQueue(ctx, &messagev1.UpdateQueueRequest{Name: "q", Push: &messagev1.Push{MaxOutstanding: 257}}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("257 at a time: %v", err)
	}
	if _, err := c.UpdateQueue(ctx, &messagev1.UpdateQueueRequest{Name: "q", Push: &messagev1.Push{MaxOutstanding: 1}}); connect.CodeOf(err) != connect.CodeInvalidArgument ||
		!strings.Contains(err.Error(), "push.url: is required") {
		t.Errorf("a push without a URL: %v", err)
	}
	want = nil
	update(nil, "push")
	if got := update(nil, "max_attempts"); got != nil {
		t.Errorf("%v", got)
	}
	if _, err := c.UpdateQueue(ctx, &messagev1.UpdateQueueRequest{Name: "q", UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"push.timeout"}}}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a part of no push: %v", err)
	}
}
