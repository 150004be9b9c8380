package e2e

import (
	"bufio"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// pullOne pulls one message of a queue, and waits for it.
func pullOne(t testing.TB, client messagev1.MessageServiceClient, queue string) *messagev1.PulledMessage {
	t.Helper()
	res, err := client.Pull(t.Context(), &messagev1.PullRequest{Queue: queue, MaxMessages: 1, Wait: durationpb.New(20 * time.Second)})
	if err != nil || len(res.GetMessages()) != 1 {
		t.Fatalf("Pull of %s answers %v, %v", queue, res, err)
	}
	return res.GetMessages()[0]
}

// wantResults fails unless the receipts have these codes; "" is success.
func wantResults(t testing.TB, results []*messagev1.SettleResult, err error, receipts []string, codes ...string) {
	t.Helper()
	if err != nil || len(results) != len(codes) {
		t.Fatalf("%v, %v", results, err)
	}
	for i, r := range results {
		if r.GetReceipt() != receipts[i] || r.GetError().GetCode() != codes[i] || (codes[i] == "") != (r.GetError().GetMessage() == "") {
			t.Errorf("result %d is %v, want %q", i, r, codes[i])
		}
	}
}

func pulls(t *testing.T, c *caller) {
	queue := c.queue(t, "pull", &messagev1.CreateQueueRequest{})
	if res, err := c.Pull(t.Context(), &messagev1.PullRequest{Queue: queue}); err != nil || len(res.GetMessages()) != 0 {
		t.Errorf("an empty queue answers %v, %v", res, err)
	}
	if res, err := c.Pull(t.Context(), &messagev1.PullRequest{Queue: queue, Wait: durationpb.New(50 * time.Millisecond)}); err != nil || len(res.GetMessages()) != 0 {
		t.Errorf("an empty queue answers %v, %v", res, err)
	}
	req := &messagev1.PublishRequest{Queue: queue, Payload: &messagev1.PublishRequest_Data{Data: binary256()}, Attributes: attributes()}
	sent, err := c.grpc.Publish(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	m := pullOne(t, c, queue)
	if m.GetId() != sent.GetId() || m.GetAttempt() != 1 || string(m.GetPayload()) != string(binary256()) || !maps.Equal(m.GetAttributes(), attributes()) {
		t.Errorf("got %v", m)
	}
	recent(t, "publish_time", m.GetPublishTime())
	if q, err := c.grpc.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: queue}); err != nil || q.GetPulled() != 1 || q.GetWaiting() != 0 {
		t.Errorf("the queue is %v, %v", q, err)
	}
	publish(t, c.grpc, queue, "a", "b", "c")
	res, err := c.Pull(t.Context(), &messagev1.PullRequest{Queue: queue, MaxMessages: 2, AckDeadline: durationpb.New(time.Hour)})
	if err != nil || len(res.GetMessages()) != 2 {
		t.Errorf("got %v, %v", res, err)
	}
}

func acks(t *testing.T, c *caller) {
	queue := c.queue(t, "ack", &messagev1.CreateQueueRequest{})
	publish(t, c.grpc, queue, "a")
	receipts := []string{pullOne(t, c.grpc, queue).GetReceipt(), "no receipt"}
	res, err := c.Ack(t.Context(), &messagev1.AckRequest{Queue: queue, Receipts: receipts})
	wantResults(t, res.GetResults(), err, receipts, "", "invalid_argument")
	res, err = c.Ack(t.Context(), &messagev1.AckRequest{Queue: queue, Receipts: receipts[:1]})
	wantResults(t, res.GetResults(), err, receipts, "failed_precondition")
	if q, err := c.grpc.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: queue}); err != nil || q.GetPulled() != 0 || q.GetDepth() != 0 {
		t.Errorf("the queue is %v, %v", q, err)
	}
}

func nacks(t *testing.T, c *caller) {
	queue := c.queue(t, "nack", &messagev1.CreateQueueRequest{MaxAttempts: 2})
	id := publish(t, c.grpc, queue, "a")[0]
	first := []string{pullOne(t, c.grpc, queue).GetReceipt()}
	res, err := c.Nack(t.Context(), &messagev1.NackRequest{Queue: queue, Receipts: first, Delay: durationpb.New(0), Reason: "first"})
	wantResults(t, res.GetResults(), err, first, "")
	res, err = c.Nack(t.Context(), &messagev1.NackRequest{Queue: queue, Receipts: first})
	wantResults(t, res.GetResults(), err, first, "failed_precondition")
	m := pullOne(t, c.grpc, queue)
	if m.GetId() != id || m.GetAttempt() != 2 {
		t.Errorf("got %v", m)
	}
	second := []string{m.GetReceipt()}
	res, err = c.Nack(t.Context(), &messagev1.NackRequest{Queue: queue, Receipts: second, Reason: "second"})
	wantResults(t, res.GetResults(), err, second, "")
	letters, err := c.grpc.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: queue})
	if err != nil || len(letters.GetDeadLetters()) != 1 || letters.GetDeadLetters()[0].GetReason() != "second" || letters.GetDeadLetters()[0].GetAttempts() != 2 {
		t.Errorf("the dead letters are %v, %v", letters, err)
	}
}

func extends(t *testing.T, c *caller) {
	queue := c.queue(t, "extend", &messagev1.CreateQueueRequest{})
	publish(t, c.grpc, queue, "a")
	receipts := []string{pullOne(t, c.grpc, queue).GetReceipt()}
	res, err := c.Extend(t.Context(), &messagev1.ExtendRequest{Queue: queue, Receipts: receipts, AckDeadline: durationpb.New(time.Second)})
	wantResults(t, res.GetResults(), err, receipts, "")
	if m := pullOne(t, c.grpc, queue); m.GetAttempt() != 2 {
		t.Errorf("got %v", m)
	}
	res, err = c.Extend(t.Context(), &messagev1.ExtendRequest{Queue: queue, Receipts: receipts})
	wantResults(t, res.GetResults(), err, receipts, "failed_precondition")
}

// watchesQueues tests the stream, and over REST the events.
func watchesQueues(t *testing.T, c *caller) {
	queue := c.queue(t, "watch", &messagev1.CreateQueueRequest{})
	publish(t, c.grpc, queue, "a")
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if strings.HasPrefix(c.name, "rest") {
		watchesEvents(t, c, queue)
		return
	}
	stream, err := c.WatchQueue(ctx, &messagev1.WatchQueueRequest{Name: queue})
	if err != nil {
		t.Fatal(err)
	}
	for depth := int64(1); depth <= 2; { // One reading, and one after a change.
		if !stream.Receive() {
			t.Fatalf("the stream ended: %v", stream.Err())
		}
		if s := stream.Msg(); s.GetName() == queue && s.GetDepth() == depth {
			recent(t, "read_time", s.GetReadTime())
			publish(t, c.grpc, queue, "b")
			depth++
		}
	}
	stop()
	_ = stream.Close()
	stream, err = c.WatchQueue(t.Context(), &messagev1.WatchQueueRequest{Name: "nope"})
	if err == nil {
		stream.Receive()
		err = stream.Err()
		_ = stream.Close()
	}
	wantCode(t, err, connect.CodeNotFound)
}

func watchesEvents(t *testing.T, c *caller, queue string) {
	get := func(queue string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+"/api/v1/queues/"+queue+":watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: keyed{&http.Transport{}, adminKey}}
		t.Cleanup(client.CloseIdleConnections)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	res := get(queue)
	if kind := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("status %d, %s", res.StatusCode, kind)
	}
	events := bufio.NewReader(res.Body)
	for {
		line, err := events.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "data: ") && strings.Contains(strings.ReplaceAll(line, " ", ""), `"depth":"1"`) {
			break
		}
	}
	if res := get("nope"); res.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown queue has the status %d", res.StatusCode)
	}
}

func listsMessages(t *testing.T, c *caller) {
	queue := c.queue(t, "browse", &messagev1.CreateQueueRequest{})
	ids := publish(t, c.grpc, queue, "a", "b", "c")
	m := pullOne(t, c.grpc, queue)
	res, err := c.ListMessages(t.Context(), &messagev1.ListMessagesRequest{Queue: queue, View: messagev1.MessageView_MESSAGE_VIEW_PULLED})
	if err != nil || len(res.GetMessages()) != 1 || res.GetMessages()[0].GetId() != m.GetId() || res.GetMessages()[0].GetDueTime() == nil {
		t.Errorf("what was pulled: %v, %v", res, err)
	}
	res, err = c.ListMessages(t.Context(), &messagev1.ListMessagesRequest{Queue: queue, PageSize: 1})
	if connect.CodeOf(err) == connect.CodeUnimplemented {
		return // RabbitMQ cannot.
	}
	if err != nil || len(res.GetMessages()) != 1 || !slices.Contains(ids, res.GetMessages()[0].GetId()) || len(res.GetMessages()[0].GetPayload()) != 1 {
		t.Fatalf("what is ready: %v, %v", res, err)
	}
	res, err = c.ListMessages(t.Context(), &messagev1.ListMessagesRequest{Queue: queue, PageSize: 1, PageToken: res.GetNextPageToken()})
	if err != nil || len(res.GetMessages()) != 1 || res.GetNextPageToken() != "" {
		t.Errorf("the second page: %v, %v", res, err)
	}
}

// pullRefusals are the requests that RPCs of this file must refuse.
var pullRefusals = map[protoreflect.Name][]refusal{
	"Pull": {
		refuse("unknown queue", client.Pull, &messagev1.PullRequest{Queue: "nope"}, connect.CodeNotFound, ""),
		refuse("bad name", client.Pull, &messagev1.PullRequest{Queue: "no pe"}, connect.CodeInvalidArgument, "queue"),
		refuse("too many", client.Pull, &messagev1.PullRequest{Queue: taskQueue, MaxMessages: 1001}, connect.CodeInvalidArgument, "max_messages"),
		refuse("negative", client.Pull, &messagev1.PullRequest{Queue: taskQueue, MaxMessages: -1}, connect.CodeInvalidArgument, "max_messages"),
		refuse("too long", client.Pull, &messagev1.PullRequest{Queue: taskQueue, Wait: durationpb.New(31 * time.Second)}, connect.CodeInvalidArgument, "wait"),
		refuse("too short a lease", client.Pull,
			&messagev1.PullRequest{Queue: taskQueue, AckDeadline: durationpb.New(time.Millisecond)}, connect.CodeInvalidArgument, "ack_deadline"),
		refuse("too long a lease", client.Pull,
			&messagev1.PullRequest{Queue: taskQueue, AckDeadline: durationpb.New(13 * time.Hour)}, connect.CodeInvalidArgument, "ack_deadline"),
	},
	"ListMessages": {
		refuse("unknown queue", client.ListMessages, &messagev1.ListMessagesRequest{Queue: "nope"}, connect.CodeNotFound, ""),
		refuse("unknown view", client.ListMessages, &messagev1.ListMessagesRequest{Queue: taskQueue, View: 9}, connect.CodeInvalidArgument, "view"),
		refuse("bad page token", client.ListMessages,
			&messagev1.ListMessagesRequest{Queue: taskQueue, View: messagev1.MessageView_MESSAGE_VIEW_WAITING, PageToken: "x"}, connect.CodeInvalidArgument, "page_token"),
	},
	"Ack": {
		refuse("no receipts", client.Ack, &messagev1.AckRequest{Queue: taskQueue}, connect.CodeInvalidArgument, "receipts"),
		refuse("too many receipts", client.Ack, &messagev1.AckRequest{Queue: taskQueue, Receipts: make([]string, 1001)}, connect.CodeInvalidArgument, "receipts"),
		refuse("bad name", client.Ack, &messagev1.AckRequest{Queue: "no pe", Receipts: []string{"x"}}, connect.CodeInvalidArgument, "queue"),
	},
	"Nack": {
		refuse("no receipts", client.Nack, &messagev1.NackRequest{Queue: taskQueue}, connect.CodeInvalidArgument, "receipts"),
		refuse("long delay", client.Nack,
			&messagev1.NackRequest{Queue: taskQueue, Receipts: []string{"x"}, Delay: durationpb.New(25 * time.Hour)}, connect.CodeInvalidArgument, "delay"),
	},
	"Extend": {
		refuse("no receipts", client.Extend, &messagev1.ExtendRequest{Queue: taskQueue}, connect.CodeInvalidArgument, "receipts"),
		refuse("too short a lease", client.Extend,
			&messagev1.ExtendRequest{Queue: taskQueue, Receipts: []string{"x"}, AckDeadline: durationpb.New(0)}, connect.CodeInvalidArgument, "ack_deadline"),
	},
}
