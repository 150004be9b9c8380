package e2e

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// acmeData is what the tenant acme has.
type acmeData struct {
	client                                                             messagev1.MessageServiceClient
	waiting, letter, operation, dryRun, queuePage, letterPage, receipt string // ids, tokens and a receipt
}

const (
	secretQueue = "secret" // only acme has it
	sharedQueue = "shared" // both tenants have one of this name
	secretTopic = "secrets"
)

// intrusions are what another tenant tries with each RPC, without seeing or changing anything.
var intrusions = map[protoreflect.Name]func(*testing.T, *acmeData, messagev1.MessageServiceClient){
	"Publish": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.Publish(t.Context(), &messagev1.PublishRequest{Queue: secretQueue, Payload: text("x")})
		wantCode(t, err, connect.CodeNotFound)
		_, err = b.Publish(t.Context(), &messagev1.PublishRequest{Queue: secretQueue, Payload: text("x"), IdempotencyKey: "once"})
		wantCode(t, err, connect.CodeNotFound)
		_, err = b.Publish(t.Context(), &messagev1.PublishRequest{Topic: secretTopic, RoutingKey: "a", Payload: text("x")})
		wantCode(t, err, connect.CodeNotFound)
		res, err := b.Publish(t.Context(), &messagev1.PublishRequest{Queue: sharedQueue, Payload: text("x"), IdempotencyKey: "once"})
		if err != nil || res.GetDuplicate() && res.GetId() == "" {
			t.Errorf("its own queue: %v, %v", res, err)
		}
	},
	"PublishBatch": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		res, err := b.PublishBatch(t.Context(), &messagev1.PublishBatchRequest{Messages: []*messagev1.PublishRequest{
			{Queue: secretQueue, Payload: text("x")}, {Topic: secretTopic, RoutingKey: "a", Payload: text("x")},
		}})
		if err != nil || res.GetResults()[0].GetError().GetCode() != "not_found" || res.GetResults()[1].GetError().GetCode() != "not_found" {
			t.Errorf("got %v, %v", res, err)
		}
	},
	"GetMessage": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.GetMessage(t.Context(), &messagev1.GetMessageRequest{Id: a.waiting})
		wantCode(t, err, connect.CodeNotFound)
	},
	"CancelMessage": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.CancelMessage(t.Context(), &messagev1.CancelMessageRequest{Id: a.waiting})
		wantCode(t, err, connect.CodeNotFound)
	},
	"Consume": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		stream, err := b.Consume(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Subscribe{
			Subscribe: &messagev1.Subscribe{Queue: secretQueue}}}) // If it fails, Receive returns the cause.
		_, err = stream.Receive()
		wantCode(t, err, connect.CodeNotFound)
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
	},
	"Pull": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.Pull(t.Context(), &messagev1.PullRequest{Queue: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
	},
	"Ack": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		for _, queue := range []string{secretQueue, sharedQueue} {
			res, err := b.Ack(t.Context(), &messagev1.AckRequest{Queue: queue, Receipts: []string{a.receipt}})
			wantResults(t, res.GetResults(), err, []string{a.receipt}, "failed_precondition")
		}
	},
	"Nack": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		for _, queue := range []string{secretQueue, sharedQueue} {
			res, err := b.Nack(t.Context(), &messagev1.NackRequest{Queue: queue, Receipts: []string{a.receipt}})
			wantResults(t, res.GetResults(), err, []string{a.receipt}, "failed_precondition")
		}
	},
	"Extend": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		for _, queue := range []string{secretQueue, sharedQueue} {
			res, err := b.Extend(t.Context(), &messagev1.ExtendRequest{Queue: queue, Receipts: []string{a.receipt}})
			wantResults(t, res.GetResults(), err, []string{a.receipt}, "failed_precondition")
		}
	},
	"WatchQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		stream, err := b.WatchQueue(t.Context(), &messagev1.WatchQueueRequest{Name: secretQueue})
		if err == nil {
			stream.Receive()
			err = stream.Err()
			_ = stream.Close()
		}
		wantCode(t, err, connect.CodeNotFound)
	},
	"ListMessages": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		for _, view := range []messagev1.MessageView{1, 2, 3} {
			_, err := b.ListMessages(t.Context(), &messagev1.ListMessagesRequest{Queue: secretQueue, View: view})
			wantCode(t, err, connect.CodeNotFound)
		}
		res, err := b.ListMessages(t.Context(), &messagev1.ListMessagesRequest{Queue: sharedQueue, View: messagev1.MessageView_MESSAGE_VIEW_WAITING})
		if err != nil {
			t.Error(err)
		}
		for _, m := range res.GetMessages() { // What it publishes with a key waits for a moment.
			if string(m.GetPayload()) != "x" {
				t.Errorf("its own queue has %v", m)
			}
		}
	},
	"CreateQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: sharedQueue})
		wantCode(t, err, connect.CodeAlreadyExists) // Its own queue: acme's are of no consequence, or it could not have been created.
	},
	"GetQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
		q, err := b.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: sharedQueue})
		if err != nil || q.GetDeadLetters() != 0 || q.GetMaxAttempts() == 1 {
			t.Errorf("its own queue: %v, %v", q, err)
		}
	},
	"ListQueues": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		res, err := b.ListQueues(t.Context(), &messagev1.ListQueuesRequest{})
		if err != nil || strings.Contains(res.String(), secretQueue) {
			t.Errorf("got %v, %v", res, err)
		}
		_, err = b.ListQueues(t.Context(), &messagev1.ListQueuesRequest{PageToken: a.queuePage})
		wantCode(t, err, connect.CodeInvalidArgument)
	},
	"UpdateQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.UpdateQueue(t.Context(), &messagev1.UpdateQueueRequest{Name: secretQueue, MaxAttempts: 9})
		wantCode(t, err, connect.CodeNotFound)
	},
	"DeleteQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.DeleteQueue(t.Context(), &messagev1.DeleteQueueRequest{Name: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
	},
	"PauseQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.PauseQueue(t.Context(), &messagev1.PauseQueueRequest{Name: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
		_, err = b.PauseQueue(t.Context(), &messagev1.PauseQueueRequest{Name: sharedQueue})
		if err != nil {
			t.Error(err)
		}
	},
	"ResumeQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.ResumeQueue(t.Context(), &messagev1.ResumeQueueRequest{Name: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
	},
	"PurgeQueue": func(t *testing.T, _ *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.PurgeQueue(t.Context(), &messagev1.PurgeQueueRequest{Name: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
		if _, err = b.PurgeQueue(t.Context(), &messagev1.PurgeQueueRequest{Name: sharedQueue}); err != nil {
			t.Error(err)
		}
	},
	"ListDeadLetters": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
		res, err := b.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: sharedQueue})
		if err != nil || len(res.GetDeadLetters()) != 0 {
			t.Errorf("its own queue: %v, %v", res, err)
		}
		_, err = b.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: sharedQueue, PageSize: 1, PageToken: a.letterPage})
		wantCode(t, err, connect.CodeInvalidArgument)
	},
	"GetDeadLetter": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.GetDeadLetter(t.Context(), &messagev1.GetDeadLetterRequest{Id: a.letter})
		wantCode(t, err, connect.CodeNotFound)
	},
	"RedriveDeadLetters": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.RedriveDeadLetters(t.Context(), &messagev1.RedriveDeadLettersRequest{Queue: secretQueue, Filter: &messagev1.DeadLetterFilter{}})
		wantCode(t, err, connect.CodeNotFound)
		_, err = b.RedriveDeadLetters(t.Context(), &messagev1.RedriveDeadLettersRequest{Queue: sharedQueue, Token: a.dryRun})
		wantCode(t, err, connect.CodeNotFound)
		res, err := b.RedriveDeadLetters(t.Context(), &messagev1.RedriveDeadLettersRequest{Queue: sharedQueue, Ids: []string{a.letter}})
		if err != nil || res.GetCount() != 0 {
			t.Errorf("got %v, %v", res, err)
		}
	},
	"PurgeDeadLetters": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: secretQueue, Filter: &messagev1.DeadLetterFilter{}})
		wantCode(t, err, connect.CodeNotFound)
		res, err := b.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: sharedQueue, Ids: []string{a.letter}})
		if err != nil || res.GetCount() != 0 {
			t.Errorf("got %v, %v", res, err)
		}
		res, err = b.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: sharedQueue, Filter: &messagev1.DeadLetterFilter{}})
		if err != nil || res.GetCount() != 0 {
			t.Errorf("got %v, %v", res, err)
		}
	},
	"GetDeadLetterOperation": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.GetDeadLetterOperation(t.Context(), &messagev1.GetDeadLetterOperationRequest{Id: a.operation})
		wantCode(t, err, connect.CodeNotFound)
	},
	"ListDeadLetterOperations": func(t *testing.T, a *acmeData, b messagev1.MessageServiceClient) {
		_, err := b.ListDeadLetterOperations(t.Context(), &messagev1.ListDeadLetterOperationsRequest{Queue: secretQueue})
		wantCode(t, err, connect.CodeNotFound)
		res, err := b.ListDeadLetterOperations(t.Context(), &messagev1.ListDeadLetterOperationsRequest{Queue: sharedQueue})
		if err != nil || strings.Contains(res.String(), a.operation) {
			t.Errorf("got %v, %v", res, err)
		}
	},
}

func hiddenMessages(t *testing.T, acme, other party) hidden {
	a := acmeMessages(t, acme)
	newQueue(t, messagev1.NewMessageServiceClient(other.http, other.url, other.options...), sharedQueue)
	h := hidden{tries: map[protoreflect.Name]func(*testing.T, party){}, state: a.state}
	for name, intrude := range intrusions {
		h.tries[name] = func(t *testing.T, other party) {
			// A client of Connect reads no events.
			if name != "Consume" && name != "WatchQueue" || other.streams {
				intrude(t, a, messagev1.NewMessageServiceClient(other.http, other.url, other.options...))
			}
		}
	}
	return h
}

// acmeMessages creates what acme has to hide.
func acmeMessages(t *testing.T, acme party) *acmeData {
	client := messagev1.NewMessageServiceClient(acme.http, acme.url, acme.options...)
	a := &acmeData{client: client}
	ctx := t.Context()
	for _, queue := range []string{secretQueue, sharedQueue} {
		_, err := client.CreateQueue(ctx, &messagev1.CreateQueueRequest{
			Name: queue, MaxAttempts: 1, Bindings: []*messagev1.Binding{{Topic: secretTopic, Pattern: "#"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // Three dead letters in the queue whose name both tenants use.
		publish(t, client, sharedQueue, "fails")
		c := consume(t, client, &messagev1.Subscribe{Queue: sharedQueue, MaxOutstanding: 1})
		c.nack(t, c.next(t).GetId(), 0)
		c.end(t)
	}
	waiting, err := client.Publish(ctx, &messagev1.PublishRequest{Queue: secretQueue, Payload: text("later"), IdempotencyKey: "once",
		When: &messagev1.PublishRequest_Delay{Delay: durationpb.New(3600e9)}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, client, secretQueue, "hidden", "pulled")
	pulled, err := client.Pull(ctx, &messagev1.PullRequest{Queue: secretQueue, AckDeadline: durationpb.New(3600e9)})
	if err != nil || len(pulled.GetMessages()) != 1 {
		t.Fatal(pulled, err)
	}
	letters, err := client.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{Queue: sharedQueue, PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	queues, err := client.ListQueues(ctx, &messagev1.ListQueuesRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	dry, err := client.RedriveDeadLetters(ctx, &messagev1.RedriveDeadLettersRequest{Queue: sharedQueue, Filter: &messagev1.DeadLetterFilter{}, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	op, err := client.PurgeDeadLetters(ctx, &messagev1.PurgeDeadLettersRequest{Queue: sharedQueue,
		Filter: &messagev1.DeadLetterFilter{Reason: "none has this"}})
	if err != nil {
		t.Fatal(err)
	}
	a.waiting, a.letter, a.letterPage = waiting.GetId(), letters.GetDeadLetters()[0].GetId(), letters.GetNextPageToken()
	a.receipt = pulled.GetMessages()[0].GetReceipt()
	a.queuePage, a.dryRun, a.operation = queues.GetNextPageToken(), dry.GetToken(), op.GetOperation().GetId()
	return a
}

// state returns everything that acme can see of its own.
func (a *acmeData) state(t *testing.T) (all []proto.Message) {
	t.Helper()
	ctx := t.Context()
	keep := func(m proto.Message, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	for _, name := range []string{secretQueue, sharedQueue} {
		q, err := a.client.GetQueue(ctx, &messagev1.GetQueueRequest{Name: name})
		q.Rates = nil // They change as time passes.
		keep(q, err)
		letters, err := a.client.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{Queue: name})
		keep(letters, err)
		operations, err := a.client.ListDeadLetterOperations(ctx, &messagev1.ListDeadLetterOperationsRequest{Queue: name})
		keep(operations, err)
	}
	waiting, err := a.client.GetMessage(ctx, &messagev1.GetMessageRequest{Id: a.waiting})
	keep(waiting, err)
	return all
}
