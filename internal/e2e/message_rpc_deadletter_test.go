package e2e

import (
	"slices"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	messagev1 "plinth/api/plinth/message/v1"
)

// letters creates a queue with a dead letter for each reason, and returns them in that order.
func (c *caller) letters(t testing.TB, name string, reasons ...string) (queue string, letters []*messagev1.DeadLetter) {
	t.Helper()
	queue = c.queue(t, name, &messagev1.CreateQueueRequest{MaxAttempts: 1})
	for _, reason := range reasons {
		c.die(t, queue, reason)
	}
	list, err := c.grpc.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: queue})
	if err != nil || len(list.GetDeadLetters()) != len(reasons) {
		t.Fatalf("ListDeadLetters answers %v, %v", list, err)
	}
	letters = list.GetDeadLetters()
	slices.Reverse(letters)
	return queue, letters
}

// die publishes a message to a queue that allows one attempt, and makes it a dead letter.
func (c *caller) die(t testing.TB, queue, reason string) {
	t.Helper()
	count := func() int64 {
		q, err := c.grpc.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: queue})
		if err != nil {
			t.Fatal(err)
		}
		return q.GetDeadLetters()
	}
	before := count()
	if _, err := c.grpc.Publish(t.Context(), &messagev1.PublishRequest{Queue: queue,
		Payload: &messagev1.PublishRequest_Data{Data: binary256()}, Attributes: attributes()}); err != nil {
		t.Fatal(err)
	}
	consumer := consume(t, c.grpc, &messagev1.Subscribe{Queue: queue, MaxOutstanding: 1})
	consumer.giveBack(t, reason, consumer.next(t).GetId())
	eventually(t, "the message is a dead letter", func() bool { return count() == before+1 })
	consumer.end(t)
}

// giveBack nacks a message with a reason.
func (c *consumer) giveBack(t testing.TB, reason, id string) {
	t.Helper()
	c.send(t, &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Nack{
		Nack: &messagev1.Nack{Items: []*messagev1.NackItem{{Id: id, Reason: reason}}}}})
}

func listsDeadLetters(t *testing.T, c *caller) {
	queue, letters := c.letters(t, "letters", "no disk left", "100% full", "No disk found")
	list := func(req *messagev1.ListDeadLettersRequest) (*messagev1.ListDeadLettersResponse, []string) {
		req.Queue = queue
		res, err := c.ListDeadLetters(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var reasons []string
		for _, l := range res.GetDeadLetters() {
			reasons = append(reasons, l.GetReason())
		}
		return res, reasons
	}
	middle := letters[1].GetLastFailureTime()
	for _, test := range []struct {
		filter *messagev1.DeadLetterFilter
		want   []string
	}{
		{nil, []string{"No disk found", "100% full", "no disk left"}},
		{&messagev1.DeadLetterFilter{Reason: "NO DISK"}, []string{"No disk found", "no disk left"}},
		{&messagev1.DeadLetterFilter{Reason: "0%"}, []string{"100% full"}},
		{&messagev1.DeadLetterFilter{Reason: "n% d"}, nil},
		{&messagev1.DeadLetterFilter{StartTime: middle}, []string{"No disk found", "100% full"}},
		{&messagev1.DeadLetterFilter{EndTime: middle}, []string{"no disk left"}},
		{&messagev1.DeadLetterFilter{Reason: "disk", StartTime: middle}, []string{"No disk found"}},
	} {
		if _, got := list(&messagev1.ListDeadLettersRequest{Filter: test.filter}); !slices.Equal(got, test.want) {
			t.Errorf("ListDeadLetters with %v: %q, want %q", test.filter, got, test.want)
		}
	}
	first, got := list(&messagev1.ListDeadLettersRequest{PageSize: 2})
	if !slices.Equal(got, []string{"No disk found", "100% full"}) || first.GetNextPageToken() == "" {
		t.Errorf("the first page is %q, and the next is %q", got, first.GetNextPageToken())
	}
	last, got := list(&messagev1.ListDeadLettersRequest{PageSize: 2, PageToken: first.GetNextPageToken()})
	if !slices.Equal(got, []string{"no disk left"}) || last.GetNextPageToken() != "" {
		t.Errorf("the last page is %q, and the next is %q", got, last.GetNextPageToken())
	}
	_, err := c.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: queue, PageToken: first.GetNextPageToken(),
		Filter: &messagev1.DeadLetterFilter{Reason: "disk"}})
	wantCode(t, err, connect.CodeInvalidArgument)
}

func getsDeadLetters(t *testing.T, c *caller) {
	queue, letters := c.letters(t, "letter", "broken")
	got, err := c.GetDeadLetter(t.Context(), &messagev1.GetDeadLetterRequest{Id: letters[0].GetId()})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "GetDeadLetter", got, letters[0])
	recent(t, "publish_time", got.GetPublishTime())
	recent(t, "first_failure_time", got.GetFirstFailureTime())
	recent(t, "last_failure_time", got.GetLastFailureTime())
	if uuid.Validate(got.GetMessageId()) != nil {
		t.Errorf("the id of the message is %q", got.GetMessageId())
	}
	same(t, "GetDeadLetter", got, &messagev1.DeadLetter{
		Id: letters[0].GetId(), Queue: queue, MessageId: got.GetMessageId(), Reason: "broken", Attempts: 1,
		FirstFailureTime: got.GetFirstFailureTime(), LastFailureTime: got.GetLastFailureTime(), PublishTime: got.GetPublishTime(),
		Payload: binary256(), Attributes: attributes(),
	})
}

// A dry run pins the dead letters that are redriven. Those that are added later stay.
func redrivesDeadLetters(t *testing.T, c *caller) {
	queue, letters := c.letters(t, "redrive", "a", "b")
	dry, err := c.RedriveDeadLetters(t.Context(), &messagev1.RedriveDeadLettersRequest{Queue: queue,
		Ids: []string{letters[0].GetId(), letters[1].GetId(), uuid.NewString()}, DryRun: true})
	if err != nil || dry.GetCount() != 2 || dry.GetToken() == "" || dry.GetOperation() != nil ||
		len(dry.GetSkipped()) != 1 || dry.GetSkipped()[0].GetReason() != "not_found" || dry.GetSkipped()[0].GetCount() != 1 {
		t.Fatalf("a dry run answers %v, %v", dry, err)
	}
	c.die(t, queue, "late")
	byToken := &messagev1.RedriveDeadLettersRequest{Queue: queue, Token: dry.GetToken()}
	res, err := c.RedriveDeadLetters(t.Context(), byToken)
	if err != nil || res.GetCount() != 2 || res.GetOperation().GetDone() != 2 || res.GetToken() != "" {
		t.Fatalf("RedriveDeadLetters answers %v, %v", res, err)
	}
	consumer := consume(t, c.grpc, &messagev1.Subscribe{Queue: queue})
	got := []string{}
	for range letters {
		m := consumer.next(t)
		if m.GetAttempt() != 1 {
			t.Errorf("what was redriven comes with the attempt %d", m.GetAttempt())
		}
		got = append(got, m.GetId())
		consumer.ack(t, m.GetId())
	}
	consumer.end(t)
	if !slices.Contains(got, letters[0].GetMessageId()) || !slices.Contains(got, letters[1].GetMessageId()) {
		t.Errorf("redriven are the messages %v, want those of %v", got, letters)
	}
	left, err := c.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: queue})
	if err != nil || len(left.GetDeadLetters()) != 1 || left.GetDeadLetters()[0].GetReason() != "late" {
		t.Errorf("left are %v, %v", left, err)
	}
	_, err = c.RedriveDeadLetters(t.Context(), byToken)
	wantCode(t, err, connect.CodeFailedPrecondition)
	_, err = c.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: queue, Token: dry.GetToken()})
	wantCode(t, err, connect.CodeNotFound)
}

func purgesDeadLetters(t *testing.T, c *caller) {
	queue, _ := c.letters(t, "purge-letters", "keep", "drop", "drop too")
	filter := &messagev1.DeadLetterFilter{Reason: "drop"}
	dry, err := c.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: queue, Filter: filter, DryRun: true})
	if err != nil || dry.GetCount() != 2 || dry.GetToken() == "" {
		t.Errorf("a dry run answers %v, %v", dry, err)
	}
	res, err := c.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: queue, Filter: filter})
	if err != nil || res.GetCount() != 2 || res.GetOperation().GetDone() != 2 {
		t.Errorf("PurgeDeadLetters answers %v, %v", res, err)
	}
	left, err := c.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: queue})
	if err != nil || len(left.GetDeadLetters()) != 1 || left.GetDeadLetters()[0].GetReason() != "keep" {
		t.Errorf("left are %v, %v", left, err)
	}
	_, err = c.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: queue, Token: uuid.NewString()})
	wantCode(t, err, connect.CodeNotFound)
}

// Operations keep what was done, and who did it.
func getsOperations(t *testing.T, c *caller) {
	queue, _ := c.letters(t, "operation", "a")
	res, err := c.RedriveDeadLetters(t.Context(), &messagev1.RedriveDeadLettersRequest{Queue: queue,
		Filter: &messagev1.DeadLetterFilter{}, MaxPerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var got *messagev1.DeadLetterOperation
	eventually(t, "the operation is done", func() bool {
		got, err = c.GetDeadLetterOperation(t.Context(), &messagev1.GetDeadLetterOperationRequest{Id: res.GetOperation().GetId()})
		return err == nil && got.GetState() == messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_DONE
	})
	recent(t, "create_time", got.GetCreateTime())
	recent(t, "end_time", got.GetEndTime())
	got.CreateTime, got.EndTime = nil, nil
	same(t, "GetDeadLetterOperation", got, &messagev1.DeadLetterOperation{
		Id: res.GetOperation().GetId(), Kind: messagev1.DeadLetterOperationKind_DEAD_LETTER_OPERATION_KIND_REDRIVE, Queue: queue,
		State: messagev1.DeadLetterOperationState_DEAD_LETTER_OPERATION_STATE_DONE, Total: 1, Done: 1, MaxPerSecond: 1000,
		Principal: "admin",
	})
}

func listsOperations(t *testing.T, c *caller) {
	queue, _ := c.letters(t, "operations", "a", "b")
	for _, reason := range []string{"a", "b"} {
		if _, err := c.PurgeDeadLetters(t.Context(), &messagev1.PurgeDeadLettersRequest{Queue: queue,
			Filter: &messagev1.DeadLetterFilter{Reason: reason}}); err != nil {
			t.Fatal(err)
		}
	}
	first, err := c.ListDeadLetterOperations(t.Context(), &messagev1.ListDeadLetterOperationsRequest{Queue: queue, PageSize: 1})
	if err != nil || len(first.GetOperations()) != 1 || first.GetNextPageToken() == "" ||
		first.GetOperations()[0].GetKind() != messagev1.DeadLetterOperationKind_DEAD_LETTER_OPERATION_KIND_PURGE {
		t.Fatalf("ListDeadLetterOperations answers %v, %v", first, err)
	}
	last, err := c.ListDeadLetterOperations(t.Context(), &messagev1.ListDeadLetterOperationsRequest{Queue: queue, PageSize: 1,
		PageToken: first.GetNextPageToken()})
	if err != nil || len(last.GetOperations()) != 1 || last.GetNextPageToken() != "" ||
		last.GetOperations()[0].GetCreateTime().AsTime().After(first.GetOperations()[0].GetCreateTime().AsTime()) {
		t.Errorf("the last page is %v, %v", last, err)
	}
}
