package e2e

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
)

// variant is one combination of protocol, codec and version of HTTP.
type variant struct {
	name    string
	http    func(testing.TB) *http.Client
	streams bool // in both directions, which needs HTTP/2
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
	for name, client := range map[string]func(testing.TB) *http.Client{"rest-http1": http1, "rest-http2": http2} {
		all = append(all, variant{name, overREST(client), false, []connect.ClientOption{connect.WithProtoJSON()}})
	}
	return all
}

func (v variant) client(t testing.TB, url string) messagev1.MessageServiceClient {
	return messagev1.NewMessageServiceClient(v.http(t), url, v.options...)
}

// rpcs has a test for each RPC, which runs over every protocol.
var rpcs = map[protoreflect.Name]func(*testing.T, *caller){
	"Publish": publishes, "PublishBatch": publishesBatches, "GetMessage": getsMessages, "CancelMessage": cancelsMessages,
	"Consume": delivers, "Pull": pulls, "Ack": acks, "Nack": nacks, "Extend": extends,
	"WatchQueue": watchesQueues, "ListMessages": listsMessages,
	"CreateQueue": createsQueues, "GetQueue": getsQueues, "ListQueues": listsQueues, "UpdateQueue": updatesQueues,
	"DeleteQueue": deletesQueues, "PauseQueue": pausesQueues, "ResumeQueue": resumesQueues, "PurgeQueue": purgesQueues,
	"ListDeadLetters": listsDeadLetters, "GetDeadLetter": getsDeadLetters,
	"RedriveDeadLetters": redrivesDeadLetters, "PurgeDeadLetters": purgesDeadLetters,
	"GetDeadLetterOperation": getsOperations, "ListDeadLetterOperations": listsOperations,
}

// caller is a client of one variant. The names of what it creates begin with its own name, which is unique.
type caller struct {
	messagev1.MessageServiceClient
	variant
	grpc messagev1.MessageServiceClient // another client, which can stream, for the setup of tests
	url  string
}

// everyRPC tests that every RPC works alike over every protocol, codec and version of HTTP, and over REST.
func everyRPC(t *testing.T, sys *system) {
	for _, method := range methods() {
		if rpcs[method.Name()] == nil || len(refusals[method.Name()])+len(pullRefusals[method.Name()]) == 0 && !method.IsStreamingServer() {
			t.Errorf("%s has no test", method.Name())
		}
	}
	for _, v := range variants() {
		// What is behind the service does not change its protocols. Without CI=true, each has one form.
		if !(ci() && sys.plain()) && !slices.Contains([]string{"grpc-proto-http2", "grpcweb-proto-http1", "connect-json-http1", "rest-http1"}, v.name) {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			c := &caller{v.client(t, sys.url), v, grpcClient(t, sys.url), sys.url}
			for name, test := range rpcs {
				t.Run(string(name), func(t *testing.T) {
					test(t, c)
					for _, refused := range slices.Concat(refusals[name], pullRefusals[name]) {
						refused.check(t, c)
					}
				})
			}
		})
	}
}

// methods returns the RPCs in the proto.
func methods() (all []protoreflect.MethodDescriptor) {
	list := messagev1.File_plinth_message_v1_message_proto.Services().ByName("MessageService").Methods()
	for i := range list.Len() {
		all = append(all, list.Get(i))
	}
	return all
}

// queue creates a queue with the policy of a request, which needs no name.
func (c *caller) queue(t testing.TB, name string, policy *messagev1.CreateQueueRequest) string {
	t.Helper()
	policy.Name = c.name + "-" + name
	if _, err := c.grpc.CreateQueue(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	return policy.GetName()
}

// text returns s as the payload of a request.
func text(s string) *messagev1.PublishRequest_Message {
	return &messagev1.PublishRequest_Message{Message: s}
}

// same checks that two messages are equal.
func same(t testing.TB, what string, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// recent checks that a time is now, or a moment ago.
func recent(t testing.TB, what string, moment *timestamppb.Timestamp) {
	t.Helper()
	if age := time.Since(moment.AsTime()); moment == nil || age < -time.Second || age > patience {
		t.Errorf("%s is %s", what, moment.AsTime())
	}
}

// violation returns the field that an error names as invalid.
func violation(err error) string {
	for _, v := range detail[*errdetails.BadRequest](err).GetFieldViolations() {
		return v.GetField()
	}
	return ""
}

// detail returns the detail of an error that has type T.
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

// A stream with a request that is not allowed ends with an error that says why.
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
			Items: []*messagev1.NackItem{{Id: "x", Delay: durationpb.New(25 * time.Hour)}}}}}}, connect.CodeInvalidArgument},
	}
	for name, test := range tests {
		stream, err := client.Consume(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range test.requests {
			_ = stream.Send(req) // If the server has ended the stream, Receive returns the cause.
		}
		_, err = stream.Receive()
		if connect.CodeOf(err) != test.code {
			t.Errorf("%s: got %v, want the code %s", name, err, test.code)
		}
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
	}
}
