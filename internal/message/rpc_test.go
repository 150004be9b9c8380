package message_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/message"
	"plinth/internal/rpc"
)

// edge is the service behind the production stack.
type edge struct {
	fixture
	url   string
	drain func()
}

func newEdge(t *testing.T) edge {
	t.Helper()
	f := newFixture(t, false)
	draining, drain := context.WithCancel(context.Background())
	t.Cleanup(drain)
	stack := rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: time.Minute, Draining: draining})
	handler, err := stack.Handler([]rpc.Service{func(o ...connect.HandlerOption) (string, http.Handler) {
		return messagev1.NewMessageServiceHandler(message.NewRPC(f.Service, 2*time.Second), o...)
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return edge{f, server.URL, drain}
}

func (e edge) client(options ...connect.ClientOption) messagev1.MessageServiceClient {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return messagev1.NewMessageServiceClient(&http.Client{Transport: &http.Transport{Protocols: protocols}}, e.url, options...)
}

type stream = connect.BidiStreamForClientSimple[messagev1.ConsumeRequest, messagev1.ConsumeResponse]

func subscribe(s *messagev1.Subscribe) *messagev1.ConsumeRequest {
	return &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Subscribe{Subscribe: s}}
}

func ack(ids ...string) *messagev1.ConsumeRequest {
	return &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{Ids: ids}}}
}

func nack(items ...*messagev1.NackItem) *messagev1.ConsumeRequest {
	return &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Nack{Nack: &messagev1.Nack{Items: items}}}
}

func (e edge) consume(t *testing.T, first *messagev1.ConsumeRequest, options ...connect.ClientOption) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	s, err := e.client(options...).Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(first); err != nil {
		t.Fatal(err)
	}
	return s
}

func receive(t *testing.T, s *stream) *messagev1.Message {
	t.Helper()
	res, err := s.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetMessages()) != 1 {
		t.Fatalf("%v, want one message", res)
	}
	return res.GetMessages()[0]
}

func TestCallsInEveryProtocol(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for name, options := range map[string][]connect.ClientOption{
		"connect": nil, "json": {connect.WithProtoJSON()}, "get": {connect.WithHTTPGet()}, "grpc": {connect.WithGRPC()}, "grpcweb": {connect.WithGRPCWeb()},
	} {
		c, ctx := e.client(options...), within(t)
		q, err := c.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: name})
		if err != nil || q.GetName() != name || q.GetCreateTime().AsTime().IsZero() {
			t.Errorf("%s: created %v %v", name, q, err)
		}
		for _, req := range []*messagev1.PublishRequest{
			{Queue: name, Payload: &messagev1.PublishRequest_Message{Message: "text"}},
			{Queue: name, Payload: &messagev1.PublishRequest_Data{Data: []byte{0xff}}},
		} {
			if res, err := c.Publish(ctx, req); err != nil || len(res.GetId()) != 36 {
				t.Errorf("%s: published %v %v", name, res, err)
			}
		}
		if q, err := c.GetQueue(ctx, &messagev1.GetQueueRequest{Name: name}); err != nil || q.GetDepth() != 2 {
			t.Errorf("%s: got %v %v", name, q, err)
		}
		if page, err := c.ListQueues(ctx, &messagev1.ListQueuesRequest{}); err != nil || len(page.GetQueues()) != 1 {
			t.Errorf("%s: listed %v %v", name, page, err)
		}
		if _, err := c.DeleteQueue(ctx, &messagev1.DeleteQueueRequest{Name: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.GetQueue(ctx, &messagev1.GetQueueRequest{Name: name}); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s: got after it was deleted: %v", name, err)
		}
	}
}

func TestConsume(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	e.worker(t, time.Second) // Relays.
	q := e.queueOf(t, "orders", message.Policy{MaxAttempts: 3, MinBackoff: time.Second})
	for name, options := range map[string][]connect.ClientOption{"connect": nil, "grpc": {connect.WithGRPC()}, "grpcweb": {connect.WithGRPCWeb()}} {
		id := e.publish(t, q, name)
		s := e.consume(t, subscribe(&messagev1.Subscribe{Queue: "orders", MaxOutstanding: 1, AckDeadline: durationpb.New(time.Minute)}), options...)
		m := receive(t, s)
		if m.GetId() != id || string(m.GetPayload()) != name || m.GetAttempt() != 1 || time.Since(m.GetPublishTime().AsTime()) > time.Minute {
			t.Errorf("%s: %v", name, m)
		}
		_ = s.Send(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Extend{Extend: &messagev1.Extend{Ids: []string{id}}}})
		start := time.Now()
		_ = s.Send(nack(&messagev1.NackItem{Id: id})) // After the back-off: 1 s less up to a half.
		if m := receive(t, s); m.GetId() != id || m.GetAttempt() != 2 || time.Since(start) < 500*time.Millisecond {
			t.Errorf("%s: %v after %v", name, m, time.Since(start))
		}
		start = time.Now()
		_ = s.Send(nack(&messagev1.NackItem{Id: id, Delay: durationpb.New(0)}))
		if m := receive(t, s); m.GetId() != id || m.GetAttempt() != 3 || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", name, m, time.Since(start))
		}
		_ = s.Send(ack(id))
		// A client that has settled and half-closes is done.
		_ = s.CloseRequest()
		if _, err := s.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
	e.gone(t, q)
}

func TestConsumeRefuses(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	e.queue(t, "orders")
	good := &messagev1.Subscribe{Queue: "orders"}
	for name, test := range map[string]struct {
		first, second *messagev1.ConsumeRequest
		code          connect.Code
	}{
		"a stream that does not subscribe": {first: ack("x"), code: connect.CodeInvalidArgument},
		"an unknown queue":                 {first: subscribe(&messagev1.Subscribe{Queue: "none"}), code: connect.CodeNotFound},
		"too much credit":                  {first: subscribe(&messagev1.Subscribe{Queue: "orders", MaxOutstanding: 1001}), code: connect.CodeInvalidArgument},
		"a deadline too short":             {first: subscribe(&messagev1.Subscribe{Queue: "orders", AckDeadline: durationpb.New(time.Millisecond)}), code: connect.CodeInvalidArgument},
		"subscribing twice":                {first: subscribe(good), second: subscribe(good), code: connect.CodeInvalidArgument},
	} {
		s := e.consume(t, test.first, connect.WithGRPC())
		if test.second != nil {
			_ = s.Send(test.second)
		}
		if _, err := s.Receive(); connect.CodeOf(err) != test.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := e.consume(t, subscribe(good), connect.WithGRPC())
	if err := e.DeleteQueue(within(t), name(t, "orders")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a queue deleted meanwhile: %v", err)
	}
}

// TestConsumePeek does what a person does with grpcurl: it subscribes, and sends nothing else.
func TestConsumePeek(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	q := e.queue(t, "orders")
	id := e.publish(t, q, "a")
	s := e.consume(t, subscribe(&messagev1.Subscribe{Queue: "orders"}), connect.WithGRPC())
	_ = s.CloseRequest()
	if m := receive(t, s); m.GetId() != id {
		t.Errorf("%v", m)
	}
	if _, err := s.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
	if m := one(t, e.subscribe(t, q, 1, long)); m.ID != id {
		t.Errorf("%v did not go back", m)
	}
}

func TestConsumeGoneClient(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	q := e.queue(t, "orders")
	id := e.publish(t, q, "a")
	ctx, goAway := context.WithCancel(t.Context())
	s, err := e.client(connect.WithGRPC()).Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Send(subscribe(&messagev1.Subscribe{Queue: "orders", AckDeadline: durationpb.New(10 * time.Minute)}))
	receive(t, s)
	goAway()
	_ = s.CloseResponse() // Resets the stream.
	if m := one(t, e.subscribe(t, q, 1, long)); m.ID != id {
		t.Errorf("%v did not go back", m)
	}
}

func TestConsumeDrains(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	q := e.queue(t, "orders")
	e.publish(t, q, "a")
	idle := e.consume(t, subscribe(&messagev1.Subscribe{Queue: "orders", MaxOutstanding: 1}), connect.WithGRPC())
	held := receive(t, idle)
	e.drain()
	_ = idle.Send(ack(held.GetId()))
	start := time.Now()
	if _, err := idle.Receive(); !errors.Is(err, io.EOF) || time.Since(start) > time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
	e.gone(t, q)
	// A client that settles nothing gets the grace period, but no more.
	e.publish(t, q, "b")
	start = time.Now()
	late, err := e.client(connect.WithGRPC()).Consume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = late.Send(subscribe(&messagev1.Subscribe{Queue: "orders"})) // Receive returns why it failed.
	_, err = late.Receive()
	// It is refused if it was opened after the drain began and before its first message was there.
	if !errors.Is(err, io.EOF) && connect.CodeOf(err) != connect.CodeUnavailable || time.Since(start) > 5*time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
}
