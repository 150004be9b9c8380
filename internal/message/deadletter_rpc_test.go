package message_test

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
)

func TestDeadLettersOnTheWire(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	q, ctx, c := e.queue(t, "orders"), within(t), e.client(connect.WithProtoJSON())
	ids := e.letters(t, q, 5)
	page, err := c.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{
		Queue: "orders", PageSize: 2, Filter: &messagev1.DeadLetterFilter{Reason: "BECAUSE", StartTime: timestamppb.New(time.Now().Add(-time.Hour))},
	})
	if err != nil || len(page.GetDeadLetters()) != 2 || page.GetNextPageToken() == "" {
		t.Fatalf("%v %v", page, err)
	}
	d, err := c.GetDeadLetter(ctx, &messagev1.GetDeadLetterRequest{Id: ids[0]})
	if err != nil || d.GetId() != ids[0] || d.GetQueue() != "orders" || d.GetMessageId() == "" || d.GetAttempts() != 3 ||
		!strings.HasPrefix(d.GetReason(), "because of ") || !strings.HasPrefix(string(d.GetPayload()), "body ") ||
		d.GetAttributes()["colour"] != "red" || d.PublishTime != nil || d.GetFirstFailureTime().AsTime().After(d.GetLastFailureTime().AsTime()) {
		t.Errorf("%v %v", d, err)
	}
	plan, err := c.RedriveDeadLetters(ctx, &messagev1.RedriveDeadLettersRequest{Queue: "orders", Ids: append(ids[:2:2], d.GetMessageId()), DryRun: true})
	if err != nil || plan.GetCount() != 2 || plan.GetToken() == "" || plan.Operation != nil || len(plan.GetSkipped()) != 1 ||
		plan.GetSkipped()[0].GetReason() != "not_found" || plan.GetSkipped()[0].GetCount() != 1 {
		t.Errorf("%v %v", plan, err)
	}
	redriven, err := c.RedriveDeadLetters(ctx, &messagev1.RedriveDeadLettersRequest{Queue: "orders", Token: plan.GetToken(), MaxPerSecond: 7})
	op := redriven.GetOperation()
	if err != nil || redriven.GetCount() != 2 || redriven.GetToken() != "" || op.GetId() != plan.GetToken() || op.GetDone() != 2 || op.GetTotal() != 2 ||
		op.GetKind() != messagev1.DeadLetterOperationKind_DEAD_LETTER_OPERATION_KIND_REDRIVE || op.GetMaxPerSecond() != 7 ||
		op.GetState() != messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_DONE || op.GetPrincipal() != "anonymous" || op.EndTime == nil {
		t.Errorf("%v %v", redriven, err)
	}
	purge, err := c.PurgeDeadLetters(ctx, &messagev1.PurgeDeadLettersRequest{Queue: "orders", Filter: &messagev1.DeadLetterFilter{}, DryRun: true})
	if err != nil || purge.GetCount() != 3 || purge.GetToken() == "" || purge.Operation != nil {
		t.Errorf("%v %v", purge, err)
	}
	if purge, err := c.PurgeDeadLetters(ctx, &messagev1.PurgeDeadLettersRequest{Queue: "orders", Filter: &messagev1.DeadLetterFilter{}}); err != nil ||
		purge.GetOperation().GetDone() != 3 || purge.GetOperation().GetKind() != messagev1.DeadLetterOperationKind_DEAD_LETTER_OPERATION_KIND_PURGE {
		t.Errorf("%v %v", purge, err)
	}
	planned, err := c.GetDeadLetterOperation(ctx, &messagev1.GetDeadLetterOperationRequest{Id: purge.GetToken()})
	if err != nil || planned.GetState() != messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_PLANNED || planned.EndTime != nil {
		t.Errorf("%v %v", planned, err)
	}
	list, err := c.ListDeadLetterOperations(ctx, &messagev1.ListDeadLetterOperationsRequest{Queue: "orders", PageSize: 2})
	if err != nil || len(list.GetOperations()) != 2 || list.GetNextPageToken() == "" || list.GetOperations()[1].GetId() != purge.GetToken() {
		t.Errorf("%v %v", list, err)
	}
}

func TestDeadLettersOnTheWireRefuse(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	e.queue(t, "orders")
	ctx, c := within(t), e.client(connect.WithGRPC())
	for what, call := range map[string]func() error{
		"a moment that is none": func() error {
			_, err := c.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{
				Queue: "orders", Filter: &messagev1.DeadLetterFilter{EndTime: &timestamppb.Timestamp{Seconds: 1 << 60}},
			})
			return err
		},
		"a choice of such a moment": func() error {
			_, err := c.PurgeDeadLetters(ctx, &messagev1.PurgeDeadLettersRequest{
				Queue: "orders", Filter: &messagev1.DeadLetterFilter{StartTime: &timestamppb.Timestamp{Seconds: 1 << 60}},
			})
			return err
		},
		"no choice": func() error {
			_, err := c.RedriveDeadLetters(ctx, &messagev1.RedriveDeadLettersRequest{Queue: "orders"})
			return err
		},
		"an id that is none": func() error {
			_, err := c.GetDeadLetterOperation(ctx, &messagev1.GetDeadLetterOperationRequest{Id: "x"})
			return err
		},
		"a token that is none": func() error {
			_, err := c.ListDeadLetterOperations(ctx, &messagev1.ListDeadLetterOperationsRequest{Queue: "orders", PageToken: "x"})
			return err
		},
	} {
		if err := call(); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestForgedPageToken changes the time in a token of the list.
func TestForgedPageToken(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	q, ctx, c := e.queue(t, "orders"), within(t), e.client(connect.WithProtoJSON())
	e.letters(t, q, 2)
	page, err := c.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{Queue: "orders", PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	token, err := base64.RawURLEncoding.DecodeString(page.GetNextPageToken())
	if err != nil || len(token) < 16 {
		t.Fatal(page, err)
	}
	for _, micros := range []int64{math.MinInt64, math.MaxInt64, -1, 1 << 60} {
		binary.BigEndian.PutUint64(token[8:], uint64(micros))
		_, err := c.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{Queue: "orders", PageToken: base64.RawURLEncoding.EncodeToString(token)})
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("a token with the time %d: %v", micros, err)
		}
	}
}
