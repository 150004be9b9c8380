package message_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	messagev1 "plinth/api/plinth/message/v1"
)

func TestQueuesOnTheWire(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	ctx, c := within(t), e.client(connect.WithProtoJSON())
	created, err := c.CreateQueue(ctx, &messagev1.CreateQueueRequest{
		Name: "orders", MaxAttempts: 3, MinBackoff: durationpb.New(time.Millisecond), MaxBackoff: durationpb.New(time.Hour),
		MessageTtl: durationpb.New(time.Minute), MaxLength: 9, DeadLetterRetention: durationpb.New(24 * time.Hour),
		Bindings: []*messagev1.Binding{{Topic: "a", Pattern: "x.#"}},
	})
	want := &messagev1.Queue{
		Name: "orders", CreateTime: created.GetCreateTime(), MaxAttempts: 3, MinBackoff: durationpb.New(time.Millisecond),
		MaxBackoff: durationpb.New(time.Hour), MessageTtl: durationpb.New(time.Minute), MaxLength: 9,
		DeadLetterRetention: durationpb.New(24 * time.Hour), Bindings: []*messagev1.Binding{{Topic: "a", Pattern: "x.#"}},
	}
	if err != nil || !proto.Equal(created, want) || created.GetCreateTime().AsTime().IsZero() {
		t.Fatalf("created %v %v", created, err)
	}
	update := func(req *messagev1.UpdateQueueRequest, paths ...string) {
		t.Helper()
		req.Name = "orders"
		if paths != nil {
			req.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
		}
		if got, err := c.UpdateQueue(ctx, req); err != nil || !proto.Equal(got, want) {
			t.Errorf("%v: %v %v", req, got, err)
		}
	}
	update(&messagev1.UpdateQueueRequest{})
	want.MaxAttempts, want.MinBackoff = 5, durationpb.New(time.Second)
	update(&messagev1.UpdateQueueRequest{MaxAttempts: 5, MinBackoff: want.MinBackoff, MessageTtl: want.MessageTtl, MaxLength: 9})
	want.MaxBackoff = durationpb.New(2 * time.Hour)
	update(&messagev1.UpdateQueueRequest{MaxAttempts: 6, MaxBackoff: want.MaxBackoff}, "max_backoff")
	want.Bindings, want.DeadLetterRetention, want.MaxAttempts = nil, durationpb.New(time.Hour), 10
	update(&messagev1.UpdateQueueRequest{DeadLetterRetention: want.DeadLetterRetention}, "bindings", "dead_letter_retention", "max_attempts", "max_attempts")

	if got, err := c.PauseQueue(ctx, &messagev1.PauseQueueRequest{Name: "orders"}); err != nil || !got.GetPaused() {
		t.Errorf("%v %v", got, err)
	}
	e.letters(t, name(t, "orders"), 2)
	if got, err := c.GetQueue(ctx, &messagev1.GetQueueRequest{Name: "orders"}); err != nil || !got.GetPaused() || got.Depth == nil ||
		got.Waiting == nil || got.GetDeadLetters() != 2 || got.Rates == nil {
		t.Errorf("%v %v", got, err)
	}
	if page, err := c.ListQueues(ctx, &messagev1.ListQueuesRequest{}); err != nil || !page.GetQueues()[0].GetPaused() || page.GetQueues()[0].Depth != nil ||
		page.GetQueues()[0].DeadLetters != nil || page.GetQueues()[0].Rates != nil {
		t.Errorf("%v %v", page, err)
	}
	if got, err := c.ResumeQueue(ctx, &messagev1.ResumeQueueRequest{Name: "orders"}); err != nil || got.GetPaused() {
		t.Errorf("%v %v", got, err)
	}
	if res, err := c.PurgeQueue(ctx, &messagev1.PurgeQueueRequest{Name: "orders"}); err != nil || res.GetPurged() != 0 {
		t.Errorf("%v %v", res, err)
	}
}

func TestUpdateQueueRefuses(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	e.queue(t, "orders")
	c := e.client(connect.WithGRPC())
	for text, test := range map[string]struct {
		req  *messagev1.UpdateQueueRequest
		code connect.Code
	}{
		"update_mask: \"depth\"": {&messagev1.UpdateQueueRequest{MaxAttempts: 2, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"max_attempts", "depth"}}}, connect.CodeInvalidArgument},
		"update_mask: \"name\"":  {&messagev1.UpdateQueueRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"name"}}}, connect.CodeInvalidArgument},
		"message_ttl: ":          {&messagev1.UpdateQueueRequest{MessageTtl: durationpb.New(time.Hour)}, connect.CodeFailedPrecondition},
		"max_length: ":           {&messagev1.UpdateQueueRequest{MaxLength: 1}, connect.CodeFailedPrecondition},
		"max_backoff: ":          {&messagev1.UpdateQueueRequest{MinBackoff: durationpb.New(time.Hour)}, connect.CodeInvalidArgument},
	} {
		test.req.Name = "orders"
		if _, err := c.UpdateQueue(within(t), test.req); connect.CodeOf(err) != test.code || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if got, err := c.GetQueue(within(t), &messagev1.GetQueueRequest{Name: "orders"}); err != nil || got.GetMaxAttempts() != 10 {
		t.Errorf("%v %v", got, err)
	}
}
