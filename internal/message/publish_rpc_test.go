package message_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/message"
)

func textMessage(queue, text string) *messagev1.PublishRequest {
	return &messagev1.PublishRequest{Queue: queue, Payload: &messagev1.PublishRequest_Message{Message: text}}
}

func TestPublishLater(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	e.queue(t, "orders")
	e.bound(t, "news", message.Binding{Topic: "news", Pattern: "a.*"})
	c, ctx := e.client(), within(t)
	at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	req := textMessage("", "hello")
	req.Topic, req.RoutingKey, req.Attributes = "news", "a.b", map[string]string{"a": "b"}
	req.When = &messagev1.PublishRequest_DeliverTime{DeliverTime: timestamppb.New(at)}
	res, err := c.Publish(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.GetMessage(ctx, &messagev1.GetMessageRequest{Id: res.GetId()})
	if err != nil || m.GetId() != res.GetId() || m.GetQueue() != "" || m.GetTopic() != "news" || m.GetRoutingKey() != "a.b" ||
		!m.GetDeliverTime().AsTime().Equal(at) || string(m.GetPayload()) != "hello" || !maps.Equal(m.GetAttributes(), req.Attributes) ||
		time.Since(m.GetPublishTime().AsTime()) > time.Minute {
		t.Errorf("%v %v", m, err)
	}
	if _, err := c.CancelMessage(ctx, &messagev1.CancelMessageRequest{Id: res.GetId()}); err != nil {
		t.Error(err)
	}
	if _, err := c.CancelMessage(ctx, &messagev1.CancelMessageRequest{Id: res.GetId()}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}
	if _, err := c.GetMessage(ctx, &messagev1.GetMessageRequest{Id: uuid.NewString()}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}

	req = textMessage("orders", "hello")
	req.IdempotencyKey, req.When = "k", &messagev1.PublishRequest_Delay{Delay: durationpb.New(time.Hour)}
	first, err := c.Publish(ctx, req)
	if err != nil || first.GetDuplicate() {
		t.Fatalf("%v %v", first, err)
	}
	if again, err := c.Publish(ctx, req); err != nil || !again.GetDuplicate() || again.GetId() != first.GetId() {
		t.Errorf("%v %v", again, err)
	}
	if m, err := e.GetMessage(ctx, first.GetId()); err != nil || time.Until(m.DeliverAt).Round(time.Minute) != time.Hour {
		t.Errorf("%+v %v", m, err)
	}
}

// TestPublishBatchReturnsEachError compares each entry's error with that of Publish.
func TestPublishBatchReturnsEachError(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	e.queue(t, "orders")
	c, ctx := e.client(connect.WithProtoJSON()), within(t)
	withTopic, both := textMessage("", "a"), textMessage("orders", "a")
	withTopic.Topic, both.Topic = "unbound", "unbound"
	far := textMessage("orders", "a")
	far.When = &messagev1.PublishRequest_DeliverTime{DeliverTime: timestamppb.New(time.Now().Add(2 * message.MaxDelay))}
	batch := []*messagev1.PublishRequest{
		textMessage("orders", "0"), textMessage("none", "a"), {Queue: "orders"}, textMessage("!", "a"), withTopic, both, far,
		textMessage("orders", strings.Repeat("x", message.MaxBytes+1)), textMessage("orders", "8"),
	}
	res, err := c.PublishBatch(ctx, &messagev1.PublishBatchRequest{Messages: batch})
	if err != nil || len(res.GetResults()) != len(batch) {
		t.Fatalf("%v %v", res, err)
	}
	var failed []int
	for i, r := range res.GetResults() {
		if r.GetError() == nil {
			if len(r.GetId()) != 36 {
				t.Errorf("%d: %v", i, r)
			}
			continue
		}
		failed = append(failed, i)
		_, err := c.Publish(ctx, batch[i])
		if want := r.GetError().GetCode() + ": " + r.GetError().GetMessage(); err == nil || err.Error() != want || r.GetId() != "" {
			t.Errorf("%d: the batch says %q, Publish %v", i, want, err)
		}
	}
	if !slices.Equal(failed, []int{1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("%v failed", failed)
	}
	if _, err := c.PublishBatch(ctx, &messagev1.PublishBatchRequest{}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an empty batch: %v", err)
	}
}
