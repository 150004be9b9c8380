package app_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// variant is one way to speak to the port.
type variant struct {
	name    string
	http    func(testing.TB) *http.Client
	streams bool // both ways, which needs HTTP/2
	options []connect.ClientOption
}

func variants() (all []variant) {
	protocols := []struct {
		name    string
		options []connect.ClientOption
	}{
		{"connect", nil},
		{"connect-get", []connect.ClientOption{connect.WithHTTPGet()}},
		{"grpc", []connect.ClientOption{connect.WithGRPC()}},
		{"grpcweb", []connect.ClientOption{connect.WithGRPCWeb()}},
	}
	for _, protocol := range protocols {
		for _, codec := range []string{"proto", "json"} {
			options := protocol.options
			if codec == "json" {
				options = append([]connect.ClientOption{connect.WithProtoJSON()}, options...)
			}
			name := protocol.name + "-" + codec
			all = append(all, variant{name + "-http2", http2, true, options})
			if protocol.name != "grpc" {
				all = append(all, variant{name + "-http1", http1, false, options})
			}
		}
	}
	return all
}

func (v variant) client(t testing.TB, url string) messagev1.MessageServiceClient {
	return messagev1.NewMessageServiceClient(v.http(t), url, v.options...)
}

// everyRPC works alike over every protocol, codec and version of HTTP.
func everyRPC(t *testing.T, sys *system) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			queue := "rpc-" + v.name
			client := v.client(t, sys.url)
			queues(t, client, queue)
			publishes(t, client, queue)
			failures(t, client)
			if v.streams {
				delivers(t, client, queue)
			}
		})
	}
}

func queues(t *testing.T, client messagev1.MessageServiceClient, name string) {
	t.Helper()
	ctx := t.Context()
	made, err := client.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(made.GetCreateTime().AsTime()); made.GetName() != name || age < -patience || age > patience {
		t.Errorf("CreateQueue answers %v", made)
	}
	_, err = client.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: name})
	wantCode(t, err, connect.CodeAlreadyExists)
	got, err := client.GetQueue(ctx, &messagev1.GetQueueRequest{Name: name})
	if err != nil || got.GetName() != name || got.Depth == nil || got.GetDepth() != 0 {
		t.Errorf("GetQueue answers %v, %v", got, err)
	}
	page, err := client.ListQueues(ctx, &messagev1.ListQueuesRequest{PageSize: 1})
	if err != nil || len(page.GetQueues()) != 1 || page.GetNextPageToken() == "" {
		t.Errorf("ListQueues answers %v, %v", page, err)
	}
	gone := name + "-gone"
	newQueue(t, client, gone)
	if _, err := client.DeleteQueue(ctx, &messagev1.DeleteQueueRequest{Name: gone}); err != nil {
		t.Error(err)
	}
	_, err = client.GetQueue(ctx, &messagev1.GetQueueRequest{Name: gone})
	wantCode(t, err, connect.CodeNotFound)
}

// The payloads that every way in and out must keep as they are.
var (
	binary256  = func() []byte { return bytes.Repeat([]byte{0, 1, 0x80, 0xff}, 64) }
	attributes = func() map[string]string {
		return map[string]string{"ключ": "значение", "🙂": "", "key": "line\nand\ttab", "null": "\x00"}
	}
)

func publishes(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	t.Helper()
	requests := []*messagev1.PublishRequest{
		{Queue: queue, Payload: &messagev1.PublishRequest_Data{Data: binary256()}, Attributes: attributes()},
		{Queue: queue, Payload: &messagev1.PublishRequest_Message{Message: "grüße 🙂"}},
		{Queue: queue, Payload: &messagev1.PublishRequest_Message{}},
	}
	for _, req := range requests {
		if res, err := client.Publish(t.Context(), req); err != nil || len(res.GetId()) != 36 {
			t.Fatalf("Publish answers %v, %v", res, err)
		}
	}
	eventually(t, "all messages wait", func() bool {
		q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: queue})
		return err == nil && q.GetDepth() == int64(len(requests))
	})
}

func delivers(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	t.Helper()
	c := consume(t, client, &messagev1.Subscribe{Queue: queue})
	first, second, third := c.next(t), c.next(t), c.next(t)
	if !bytes.Equal(first.GetPayload(), binary256()) || !maps.Equal(first.GetAttributes(), attributes()) {
		t.Errorf("a binary message comes as %q with %q", first.GetPayload(), first.GetAttributes())
	}
	if string(second.GetPayload()) != "grüße 🙂" || len(second.GetAttributes()) != 0 {
		t.Errorf("a text comes as %q with %q", second.GetPayload(), second.GetAttributes())
	}
	if len(third.GetPayload()) != 0 {
		t.Errorf("an empty message comes as %q", third.GetPayload())
	}
	for _, m := range []*messagev1.Message{first, second, third} {
		if age := time.Since(m.GetPublishedAt().AsTime()); m.GetAttempt() != 1 || age < -time.Second || age > patience {
			t.Errorf("attempt %d, published at %s", m.GetAttempt(), m.GetPublishedAt().AsTime())
		}
	}
	c.ack(t, first.GetId(), second.GetId(), third.GetId())
	c.end(t)
}

func failures(t *testing.T, client messagev1.MessageServiceClient) {
	t.Helper()
	text := func(s string) *messagev1.PublishRequest_Message { return &messagev1.PublishRequest_Message{Message: s} }
	tests := []struct {
		name  string
		req   *messagev1.PublishRequest
		code  connect.Code
		field string
	}{
		{"unknown queue", &messagev1.PublishRequest{Queue: "nope", Payload: text("x")}, connect.CodeNotFound, ""},
		{"no queue", &messagev1.PublishRequest{Payload: text("x")}, connect.CodeInvalidArgument, "queue"},
		{"no payload", &messagev1.PublishRequest{Queue: "task_queue"}, connect.CodeInvalidArgument, "payload"},
		{"an attribute without a name", &messagev1.PublishRequest{Queue: "task_queue", Payload: text("x"),
			Attributes: map[string]string{"": "x"}}, connect.CodeInvalidArgument, "attributes"},
		{"more than a message may have", &messagev1.PublishRequest{Queue: "task_queue", Payload: text(strings.Repeat("x", 3<<20+1))},
			connect.CodeResourceExhausted, ""},
		{"more than a call may have", &messagev1.PublishRequest{Queue: "task_queue", Payload: text(strings.Repeat("x", 5<<20))},
			connect.CodeResourceExhausted, ""},
	}
	for _, test := range tests {
		_, err := client.Publish(t.Context(), test.req)
		if connect.CodeOf(err) != test.code {
			t.Errorf("%s: got %v, want the code %s", test.name, err, test.code)
		}
		if test.field != "" && !strings.HasPrefix(violation(err), test.field) {
			t.Errorf("%s: the error names the field %q, not %q", test.name, violation(err), test.field)
		}
	}
	_, err := client.ListQueues(t.Context(), &messagev1.ListQueuesRequest{PageToken: "no token"})
	wantCode(t, err, connect.CodeInvalidArgument)
	if detail[*errdetails.RequestInfo](err).GetRequestId() == "" {
		t.Errorf("the error does not tell the id of its request: %v", err)
	}
}

// violation is the field that an error finds fault with.
func violation(err error) string {
	for _, v := range detail[*errdetails.BadRequest](err).GetFieldViolations() {
		return v.GetField()
	}
	return ""
}

// detail finds a detail of an error by its type.
func detail[T any](err error) (found T) {
	var wire *connect.Error
	if errors.As(err, &wire) {
		for _, d := range wire.Details() {
			if value, valueErr := d.Value(); valueErr == nil {
				if is, ok := value.(T); ok {
					return is
				}
			}
		}
	}
	return found
}

// A stream that asks for what is not allowed ends with the reason.
func failingStreams(t *testing.T, client messagev1.MessageServiceClient) {
	newQueue(t, client, "streams")
	subscribe := func(s *messagev1.Subscribe) *messagev1.ConsumeRequest {
		return &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Subscribe{Subscribe: s}}
	}
	good := subscribe(&messagev1.Subscribe{Queue: "streams"})
	tests := map[string]struct {
		requests []*messagev1.ConsumeRequest
		code     connect.Code
	}{
		"unknown queue": {[]*messagev1.ConsumeRequest{subscribe(&messagev1.Subscribe{Queue: "nope"})}, connect.CodeNotFound},
		"too much credit": {[]*messagev1.ConsumeRequest{subscribe(&messagev1.Subscribe{Queue: "streams", MaxOutstanding: 1001})},
			connect.CodeInvalidArgument},
		"too short a deadline": {[]*messagev1.ConsumeRequest{subscribe(&messagev1.Subscribe{Queue: "streams",
			AckDeadline: durationpb.New(time.Millisecond)})}, connect.CodeInvalidArgument},
		"ack before subscribe": {[]*messagev1.ConsumeRequest{{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{}}}},
			connect.CodeInvalidArgument},
		"nothing":         {[]*messagev1.ConsumeRequest{{}}, connect.CodeInvalidArgument},
		"subscribe twice": {[]*messagev1.ConsumeRequest{good, good}, connect.CodeInvalidArgument},
		"too long a delay": {[]*messagev1.ConsumeRequest{good, {Request: &messagev1.ConsumeRequest_Nack{Nack: &messagev1.Nack{
			Items: []*messagev1.NackItem{{Id: "x", Delay: durationpb.New(time.Hour)}}}}}}, connect.CodeInvalidArgument},
	}
	for name, test := range tests {
		stream, err := client.Consume(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range test.requests {
			_ = stream.Send(req) // The server may have ended the stream: Receive tells why.
		}
		_, err = stream.Receive()
		if connect.CodeOf(err) != test.code {
			t.Errorf("%s: got %v, want the code %s", name, err, test.code)
		}
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
	}
}

// A thousand queues are listed in pages, each once and in order.
func TestPaging(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, "postgres")
	client := grpcClient(t, sys.url)
	const total = 1000
	var group errgroup.Group
	group.SetLimit(8)
	for i := range total {
		group.Go(func() error {
			_, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: fmt.Sprintf("page-%04d", i)})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	pages := map[int32]int{0: 11, 100: 11, 143: 7, 1000: 2} // of the thousand and task_queue
	for size, want := range pages {
		var names []string
		token, count := "", 0
		for ; count == 0 || token != ""; count++ {
			page, err := client.ListQueues(t.Context(), &messagev1.ListQueuesRequest{PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range page.GetQueues() {
				names = append(names, q.GetName())
			}
			token = page.GetNextPageToken()
		}
		if count != want || len(names) != total+1 {
			t.Errorf("pages of %d: %d queues in %d pages, want %d in %d", size, len(names), count, total+1, want)
		}
		for i, name := range names[:total] {
			if name != fmt.Sprintf("page-%04d", i) {
				t.Fatalf("pages of %d: queue %d is %s", size, i, name)
			}
		}
	}
}
