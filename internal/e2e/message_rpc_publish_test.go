package e2e

import (
	"bytes"
	"maps"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
)

// Payloads that must come out as they went in, by every protocol.
var (
	binary256  = func() []byte { return bytes.Repeat([]byte{0, 1, 0x80, 0xff}, 64) }
	attributes = func() map[string]string {
		return map[string]string{"ключ": "значение", "🙂": "", "key": "line\nand\ttab", "null": "\x00"}
	}
)

// publishes tests every way to publish: to a queue, to a topic, once for a key, and at a time in the past.
func publishes(t *testing.T, c *caller) {
	topic := c.name + ".topic"
	queue := c.queue(t, "publish", &messagev1.CreateQueueRequest{Bindings: []*messagev1.Binding{{Topic: topic, Pattern: "eu.*"}}})
	keyed := &messagev1.PublishRequest{Queue: queue, Payload: text("once"), IdempotencyKey: "key 1 of " + c.name}
	want := map[string]string{}
	for body, req := range map[string]*messagev1.PublishRequest{
		string(binary256()): {Queue: queue, Payload: &messagev1.PublishRequest_Data{Data: binary256()}, Attributes: attributes()},
		"grüße 🙂":           {Queue: queue, Payload: text("grüße 🙂")},
		"":                  {Queue: queue, Payload: text("")},
		"by topic":          {Topic: topic, RoutingKey: "eu.berlin", Payload: text("by topic")},
		"past": {Queue: queue, Payload: text("past"),
			When: &messagev1.PublishRequest_DeliverTime{DeliverTime: timestamppb.New(time.Now().Add(-time.Hour))}},
		"soon": {Queue: queue, Payload: text("soon"), When: &messagev1.PublishRequest_Delay{Delay: durationpb.New(time.Millisecond)}},
		"once": keyed,
	} {
		res, err := c.Publish(t.Context(), req)
		if err != nil || len(res.GetId()) != 36 || res.GetDuplicate() {
			t.Fatalf("Publish of %q answers %v, %v", body, res, err)
		}
		want[res.GetId()] = body
	}
	again, err := c.Publish(t.Context(), keyed)
	if err != nil || !again.GetDuplicate() || want[again.GetId()] != "once" {
		t.Errorf("Publish with the same key answers %v, %v", again, err)
	}

	consumer := consume(t, c.grpc, &messagev1.Subscribe{Queue: queue})
	for range want {
		m := consumer.next(t)
		if body, known := want[m.GetId()]; !known || body != string(m.GetPayload()) {
			t.Errorf("%s comes with %q, want %q", m.GetId(), m.GetPayload(), body)
		}
		if binary := bytes.Equal(m.GetPayload(), binary256()); binary && !maps.Equal(m.GetAttributes(), attributes()) ||
			!binary && len(m.GetAttributes()) != 0 {
			t.Errorf("%q comes with the attributes %q", m.GetPayload(), m.GetAttributes())
		}
		delete(want, m.GetId())
		consumer.ack(t, m.GetId())
	}
	consumer.end(t)
}

// Each entry of a batch succeeds or fails by itself.
func publishesBatches(t *testing.T, c *caller) {
	queue := c.queue(t, "batch", &messagev1.CreateQueueRequest{})
	entry := func(queue, key string) *messagev1.PublishRequest {
		return &messagev1.PublishRequest{Queue: queue, Payload: text("x"), IdempotencyKey: key}
	}
	res, err := c.PublishBatch(t.Context(), &messagev1.PublishBatchRequest{Messages: []*messagev1.PublishRequest{
		entry(queue, ""), entry("nope", ""), entry(queue, c.name), entry("no queue", ""), entry(queue, c.name), {Queue: queue},
	}})
	if err != nil || len(res.GetResults()) != 6 {
		t.Fatalf("PublishBatch answers %v, %v", res, err)
	}
	for i, code := range []connect.Code{0, connect.CodeNotFound, 0, connect.CodeInvalidArgument, 0, connect.CodeInvalidArgument} {
		r := res.GetResults()[i]
		failed := code != 0
		if failed && (r.GetError().GetCode() != code.String() || r.GetError().GetMessage() == "" || r.GetId() != "") ||
			!failed && (r.GetError() != nil || len(r.GetId()) != 36) {
			t.Errorf("the result of entry %d is %v, want the code %q", i, r, code)
		}
	}
	first, second := res.GetResults()[2], res.GetResults()[4] // Either of the two may have been first.
	if first.GetId() != second.GetId() || first.GetDuplicate() == second.GetDuplicate() {
		t.Errorf("two entries with one key: %v and %v", first, second)
	}
}

// waiting publishes a message that is due in an hour.
func (c *caller) waiting(t testing.TB, queue string) *messagev1.WaitingMessage {
	t.Helper()
	due := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	res, err := c.grpc.Publish(t.Context(), &messagev1.PublishRequest{Queue: queue,
		Payload: &messagev1.PublishRequest_Data{Data: binary256()}, Attributes: attributes(),
		When: &messagev1.PublishRequest_DeliverTime{DeliverTime: timestamppb.New(due)}})
	if err != nil {
		t.Fatal(err)
	}
	return &messagev1.WaitingMessage{Id: res.GetId(), Queue: queue, DeliverTime: timestamppb.New(due), Payload: binary256(), Attributes: attributes()}
}

func getsMessages(t *testing.T, c *caller) {
	want := c.waiting(t, c.queue(t, "get-message", &messagev1.CreateQueueRequest{}))
	got, err := c.GetMessage(t.Context(), &messagev1.GetMessageRequest{Id: want.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	recent(t, "publish_time", got.GetPublishTime())
	got.PublishTime = nil
	same(t, "GetMessage", got, want)
}

func cancelsMessages(t *testing.T, c *caller) {
	m := c.waiting(t, c.queue(t, "cancel", &messagev1.CreateQueueRequest{}))
	if _, err := c.CancelMessage(t.Context(), &messagev1.CancelMessageRequest{Id: m.GetId()}); err != nil {
		t.Fatal(err)
	}
	_, err := c.GetMessage(t.Context(), &messagev1.GetMessageRequest{Id: m.GetId()})
	wantCode(t, err, connect.CodeNotFound)
	_, err = c.CancelMessage(t.Context(), &messagev1.CancelMessageRequest{Id: m.GetId()})
	wantCode(t, err, connect.CodeNotFound)
}

// Clients that can stream receive what was published.
func delivers(t *testing.T, c *caller) {
	if !c.streams {
		return
	}
	queue := c.queue(t, "consume", &messagev1.CreateQueueRequest{})
	const messages = 3
	for i := range messages {
		publish(t, c, queue, strconv.Itoa(i))
	}
	consumer := consume(t, c, &messagev1.Subscribe{Queue: queue})
	for i := range messages {
		m := consumer.next(t)
		recent(t, "publish_time", m.GetPublishTime())
		if string(m.GetPayload()) != strconv.Itoa(i) || m.GetAttempt() != 1 {
			t.Errorf("message %d comes as %v", i, m)
		}
		consumer.ack(t, m.GetId())
	}
	consumer.end(t)
}
