package e2e

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
)

// refusal is a request that fails, and its error. field is the field at fault, empty if there is none.
type refusal struct {
	name  string
	call  func(context.Context, messagev1.MessageServiceClient) error
	code  connect.Code
	field string
}

type client = messagev1.MessageServiceClient

// refuse returns a refusal of a request to a method of the client.
func refuse[Req, Res any](name string, method func(client, context.Context, *Req) (*Res, error), req *Req, code connect.Code, field string) refusal {
	return refusal{name, func(ctx context.Context, c client) error {
		_, err := method(c, ctx, req)
		return err
	}, code, field}
}

// check makes the call. The error must name the field in a detail or, if it is one of several, in its message.
func (r refusal) check(t *testing.T, c messagev1.MessageServiceClient) {
	t.Helper()
	err := r.call(t.Context(), c)
	if err == nil || connect.CodeOf(err) != r.code {
		t.Errorf("%s: got %v, want the code %s", r.name, err, r.code)
		return
	}
	ofConnect := r.code == connect.CodeResourceExhausted // The library refuses a call that is too large before the server reads its id.
	if detail[*errdetails.RequestInfo](err).GetRequestId() == "" && !ofConnect {
		t.Errorf("%s: the error does not tell the id of its request: %v", r.name, err)
	}
	inMessage := regexp.MustCompile(`\b` + r.field + `\b`).MatchString(err.Error())
	if r.field != "" && !strings.HasPrefix(violation(err), r.field) && !inMessage {
		t.Errorf("%s: the error does not name the field %s: %v", r.name, r.field, err)
	}
}

// refusals are the requests that each RPC must refuse.
var refusals = map[protoreflect.Name][]refusal{
	"Publish": {
		refuse("unknown queue", client.Publish,
			&messagev1.PublishRequest{Queue: "nope", Payload: text("x")},
			connect.CodeNotFound, ""),
		refuse("unknown topic", client.Publish,
			&messagev1.PublishRequest{Topic: "nope", RoutingKey: "a.b", Payload: text("x")},
			connect.CodeNotFound, ""),
		refuse("neither queue nor topic", client.Publish,
			&messagev1.PublishRequest{Payload: text("x")},
			connect.CodeInvalidArgument, "queue"),
		refuse("queue and topic", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Topic: "t", Payload: text("x")},
			connect.CodeInvalidArgument, "queue"),
		refuse("bad name", client.Publish,
			&messagev1.PublishRequest{Queue: "task queue", Payload: text("x")},
			connect.CodeInvalidArgument, "queue"),
		refuse("bad topic", client.Publish,
			&messagev1.PublishRequest{Topic: "a*", Payload: text("x")},
			connect.CodeInvalidArgument, "topic"),
		refuse("routing key without a topic", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, RoutingKey: "a", Payload: text("x")},
			connect.CodeInvalidArgument, "routing_key"),
		refuse("bad routing key", client.Publish,
			&messagev1.PublishRequest{Topic: "t", RoutingKey: "a..b", Payload: text("x")},
			connect.CodeInvalidArgument, "routing_key"),
		refuse("no payload", client.Publish, &messagev1.PublishRequest{Queue: taskQueue}, connect.CodeInvalidArgument, "payload"),
		refuse("attribute without a name", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text("x"), Attributes: map[string]string{"": "x"}},
			connect.CodeInvalidArgument, "attributes"),
		refuse("long key", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text("x"), IdempotencyKey: strings.Repeat("k", 256)},
			connect.CodeInvalidArgument, "idempotency_key"),
		refuse("long delay", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text("x"), When: &messagev1.PublishRequest_Delay{Delay: durationpb.New(366 * 24 * time.Hour)}},
			connect.CodeInvalidArgument, "delay"),
		refuse("delay below zero", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text("x"), When: &messagev1.PublishRequest_Delay{Delay: durationpb.New(-time.Second)}},
			connect.CodeInvalidArgument, "delay"),
		refuse("too far ahead", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text("x"), When: &messagev1.PublishRequest_DeliverTime{DeliverTime: timestamppb.New(time.Now().Add(366 * 24 * time.Hour))}},
			connect.CodeInvalidArgument, "deliver_time"),
		refuse("more than a message may have", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text(strings.Repeat("x", 3<<20+1))},
			connect.CodeResourceExhausted, ""),
		refuse("more than a call may have", client.Publish,
			&messagev1.PublishRequest{Queue: taskQueue, Payload: text(strings.Repeat("x", 5<<20))},
			connect.CodeResourceExhausted, ""),
	},
	"PublishBatch": {
		refuse("none", client.PublishBatch, &messagev1.PublishBatchRequest{}, connect.CodeInvalidArgument, "messages"),
		refuse("too many", client.PublishBatch,
			&messagev1.PublishBatchRequest{Messages: slices.Repeat([]*messagev1.PublishRequest{{}}, 1001)},
			connect.CodeInvalidArgument, "messages"),
	},
	"GetMessage": {
		refuse("no id", client.GetMessage, &messagev1.GetMessageRequest{Id: "1"}, connect.CodeInvalidArgument, "id"),
		refuse("unknown", client.GetMessage, &messagev1.GetMessageRequest{Id: uuid.NewString()}, connect.CodeNotFound, ""),
	},
	"CancelMessage": {
		refuse("no id", client.CancelMessage, &messagev1.CancelMessageRequest{Id: "1"}, connect.CodeInvalidArgument, "id"),
		refuse("unknown", client.CancelMessage, &messagev1.CancelMessageRequest{Id: uuid.NewString()}, connect.CodeNotFound, ""),
	},
	"CreateQueue": {
		refuse("no name", client.CreateQueue, &messagev1.CreateQueueRequest{}, connect.CodeInvalidArgument, "name"),
		refuse("bad name", client.CreateQueue, &messagev1.CreateQueueRequest{Name: "-a"}, connect.CodeInvalidArgument, "name"),
		refuse("attempts", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", MaxAttempts: 1001},
			connect.CodeInvalidArgument, "max_attempts"),
		refuse("back-off upside down", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", MinBackoff: durationpb.New(time.Minute), MaxBackoff: durationpb.New(time.Second)},
			connect.CodeInvalidArgument, "min_backoff"),
		refuse("long back-off", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", MaxBackoff: durationpb.New(25 * time.Hour)},
			connect.CodeInvalidArgument, "max_backoff"),
		refuse("TTL", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", MessageTtl: durationpb.New(-time.Second)},
			connect.CodeInvalidArgument, "message_ttl"),
		refuse("length", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", MaxLength: -1},
			connect.CodeInvalidArgument, "max_length"),
		refuse("retention", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", DeadLetterRetention: durationpb.New(time.Second)},
			connect.CodeInvalidArgument, "dead_letter_retention"),
		refuse("topic", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", Bindings: []*messagev1.Binding{{Topic: "", Pattern: "#"}}},
			connect.CodeInvalidArgument, "bindings"),
		refuse("pattern", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", Bindings: []*messagev1.Binding{{Topic: "t", Pattern: "a.#b"}}},
			connect.CodeInvalidArgument, "bindings"),
		refuse("bindings", client.CreateQueue,
			&messagev1.CreateQueueRequest{Name: "never", Bindings: slices.Repeat([]*messagev1.Binding{{Topic: "t", Pattern: "#"}}, 101)},
			connect.CodeInvalidArgument, "bindings"),
	},
	"GetQueue": {
		refuse("bad name", client.GetQueue, &messagev1.GetQueueRequest{Name: "a*b"}, connect.CodeInvalidArgument, "name"),
		refuse("unknown", client.GetQueue, &messagev1.GetQueueRequest{Name: "nope"}, connect.CodeNotFound, ""),
	},
	"DeleteQueue": {
		refuse("bad name", client.DeleteQueue, &messagev1.DeleteQueueRequest{Name: "a*b"}, connect.CodeInvalidArgument, "name"),
		refuse("unknown", client.DeleteQueue, &messagev1.DeleteQueueRequest{Name: "nope"}, connect.CodeNotFound, ""),
	},
	"PauseQueue": {
		refuse("bad name", client.PauseQueue, &messagev1.PauseQueueRequest{Name: "a*b"}, connect.CodeInvalidArgument, "name"),
		refuse("unknown", client.PauseQueue, &messagev1.PauseQueueRequest{Name: "nope"}, connect.CodeNotFound, ""),
	},
	"ResumeQueue": {
		refuse("bad name", client.ResumeQueue, &messagev1.ResumeQueueRequest{Name: "a*b"}, connect.CodeInvalidArgument, "name"),
		refuse("unknown", client.ResumeQueue, &messagev1.ResumeQueueRequest{Name: "nope"}, connect.CodeNotFound, ""),
	},
	"PurgeQueue": {
		refuse("bad name", client.PurgeQueue, &messagev1.PurgeQueueRequest{Name: "a*b"}, connect.CodeInvalidArgument, "name"),
		refuse("unknown", client.PurgeQueue, &messagev1.PurgeQueueRequest{Name: "nope"}, connect.CodeNotFound, ""),
	},
	"ListQueues": {
		refuse("page", client.ListQueues, &messagev1.ListQueuesRequest{PageSize: 1001}, connect.CodeInvalidArgument, "page_size"),
		refuse("token", client.ListQueues,
			&messagev1.ListQueuesRequest{PageToken: "no token"},
			connect.CodeInvalidArgument, "page_token"),
	},
	"UpdateQueue": {
		refuse("bad name", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: "a*b", MaxAttempts: 1},
			connect.CodeInvalidArgument, "name"),
		refuse("unknown", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: "nope", MaxAttempts: 1},
			connect.CodeNotFound, ""),
		refuse("attempts", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: taskQueue, MaxAttempts: -1},
			connect.CodeInvalidArgument, "max_attempts"),
		refuse("back-off", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: taskQueue, MinBackoff: durationpb.New(11 * time.Minute)},
			connect.CodeInvalidArgument, "min_backoff"),
		refuse("mask", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: taskQueue, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"create_time"}}},
			connect.CodeInvalidArgument, "update_mask"),
		refuse("TTL", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: taskQueue, MessageTtl: durationpb.New(time.Hour)},
			connect.CodeFailedPrecondition, "message_ttl"),
		refuse("length", client.UpdateQueue,
			&messagev1.UpdateQueueRequest{Name: taskQueue, MaxLength: 5},
			connect.CodeFailedPrecondition, "max_length"),
	},
	"ListDeadLetters": {
		refuse("bad name", client.ListDeadLetters,
			&messagev1.ListDeadLettersRequest{Queue: "a*b"},
			connect.CodeInvalidArgument, "queue"),
		refuse("unknown", client.ListDeadLetters, &messagev1.ListDeadLettersRequest{Queue: "nope"}, connect.CodeNotFound, ""),
		refuse("page", client.ListDeadLetters,
			&messagev1.ListDeadLettersRequest{Queue: taskQueue, PageSize: -1},
			connect.CodeInvalidArgument, "page_size"),
		refuse("token", client.ListDeadLetters,
			&messagev1.ListDeadLettersRequest{Queue: taskQueue, PageToken: "no token"},
			connect.CodeInvalidArgument, "page_token"),
		refuse("reason", client.ListDeadLetters,
			&messagev1.ListDeadLettersRequest{Queue: taskQueue, Filter: &messagev1.DeadLetterFilter{Reason: strings.Repeat("x", 1025)}},
			connect.CodeInvalidArgument, "filter.reason"),
	},
	"GetDeadLetter": {
		refuse("no id", client.GetDeadLetter, &messagev1.GetDeadLetterRequest{Id: "1"}, connect.CodeInvalidArgument, "id"),
		refuse("unknown", client.GetDeadLetter, &messagev1.GetDeadLetterRequest{Id: uuid.NewString()}, connect.CodeNotFound, ""),
	},
	"RedriveDeadLetters": {
		refuse("bad name", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: "a*b", Filter: &messagev1.DeadLetterFilter{}},
			connect.CodeInvalidArgument, "queue"),
		refuse("unknown", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: "nope", Filter: &messagev1.DeadLetterFilter{}},
			connect.CodeNotFound, ""),
		refuse("nothing", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: taskQueue},
			connect.CodeInvalidArgument, "ids"),
		refuse("two choices", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: taskQueue, Token: "x", Filter: &messagev1.DeadLetterFilter{}},
			connect.CodeInvalidArgument, "ids"),
		refuse("no id", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: taskQueue, Ids: []string{"1"}},
			connect.CodeInvalidArgument, "ids"),
		refuse("long token", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: taskQueue, Token: strings.Repeat("x", 65)},
			connect.CodeInvalidArgument, "token"),
		refuse("unknown token", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: taskQueue, Token: uuid.NewString()},
			connect.CodeNotFound, ""),
		refuse("rate", client.RedriveDeadLetters,
			&messagev1.RedriveDeadLettersRequest{Queue: taskQueue, Filter: &messagev1.DeadLetterFilter{}, MaxPerSecond: -1},
			connect.CodeInvalidArgument, "max_per_second"),
	},
	"PurgeDeadLetters": {
		refuse("bad name", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: "a*b", Filter: &messagev1.DeadLetterFilter{}},
			connect.CodeInvalidArgument, "queue"),
		refuse("unknown", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: "nope", Filter: &messagev1.DeadLetterFilter{}},
			connect.CodeNotFound, ""),
		refuse("nothing", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: taskQueue},
			connect.CodeInvalidArgument, "ids"),
		refuse("two choices", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: taskQueue, Token: "x", Filter: &messagev1.DeadLetterFilter{}},
			connect.CodeInvalidArgument, "ids"),
		refuse("no id", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: taskQueue, Ids: []string{"1"}},
			connect.CodeInvalidArgument, "ids"),
		refuse("long token", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: taskQueue, Token: strings.Repeat("x", 65)},
			connect.CodeInvalidArgument, "token"),
		refuse("unknown token", client.PurgeDeadLetters,
			&messagev1.PurgeDeadLettersRequest{Queue: taskQueue, Token: uuid.NewString()},
			connect.CodeNotFound, ""),
	},
	"GetDeadLetterOperation": {
		refuse("no id", client.GetDeadLetterOperation,
			&messagev1.GetDeadLetterOperationRequest{Id: "1"},
			connect.CodeInvalidArgument, "id"),
		refuse("unknown", client.GetDeadLetterOperation,
			&messagev1.GetDeadLetterOperationRequest{Id: uuid.NewString()},
			connect.CodeNotFound, ""),
	},
	"ListDeadLetterOperations": {
		refuse("bad name", client.ListDeadLetterOperations,
			&messagev1.ListDeadLetterOperationsRequest{Queue: "a*b"},
			connect.CodeInvalidArgument, "queue"),
		refuse("unknown", client.ListDeadLetterOperations,
			&messagev1.ListDeadLetterOperationsRequest{Queue: "nope"},
			connect.CodeNotFound, ""),
		refuse("page", client.ListDeadLetterOperations,
			&messagev1.ListDeadLetterOperationsRequest{Queue: taskQueue, PageSize: 1001},
			connect.CodeInvalidArgument, "page_size"),
		refuse("token", client.ListDeadLetterOperations,
			&messagev1.ListDeadLetterOperationsRequest{Queue: taskQueue, PageToken: "no token"},
			connect.CodeInvalidArgument, "page_token"),
	},
}
