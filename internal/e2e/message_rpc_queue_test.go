package e2e

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	messagev1 "plinth/api/plinth/message/v1"
)

func createsQueues(t *testing.T, c *caller) {
	name := c.name + "-create"
	bindings := []*messagev1.Binding{{Topic: name, Pattern: "*.eu.#"}}
	req := &messagev1.CreateQueueRequest{
		Name: name, MaxAttempts: 3, MinBackoff: durationpb.New(10 * time.Millisecond), MaxBackoff: durationpb.New(time.Minute),
		MessageTtl: durationpb.New(time.Hour), MaxLength: 1000, DeadLetterRetention: durationpb.New(24 * time.Hour), Bindings: bindings,
	}
	got, err := c.CreateQueue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	recent(t, "create_time", got.GetCreateTime())
	got.CreateTime = nil
	same(t, "CreateQueue", got, &messagev1.Queue{
		Name: name, MaxAttempts: 3, MinBackoff: req.GetMinBackoff(), MaxBackoff: req.GetMaxBackoff(),
		MessageTtl: req.GetMessageTtl(), MaxLength: 1000, DeadLetterRetention: req.GetDeadLetterRetention(), Bindings: bindings,
	})
	_, err = c.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: name})
	wantCode(t, err, connect.CodeAlreadyExists)
}

// A queue that was created without a policy has the default that the proto promises.
func getsQueues(t *testing.T, c *caller) {
	name := c.queue(t, "get", &messagev1.CreateQueueRequest{})
	publish(t, c, name, "a", "b")
	c.waiting(t, name)
	var got *messagev1.Queue
	eventually(t, "the messages are counted", func() (counted bool) {
		var err error
		got, err = c.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name})
		return err == nil && got.GetDepth() == 2
	})
	recent(t, "create_time", got.GetCreateTime())
	if got.Rates == nil || got.GetDeadLetters() != 0 || got.DeadLetters == nil {
		t.Errorf("GetQueue answers %v", got)
	}
	got.CreateTime, got.Rates, got.DeadLetters, got.Depth = nil, nil, nil, nil
	waiting, pulled := int64(1), int64(0)
	same(t, "GetQueue", got, &messagev1.Queue{
		Name: name, MaxAttempts: 10, MinBackoff: durationpb.New(time.Second), MaxBackoff: durationpb.New(10 * time.Minute),
		DeadLetterRetention: durationpb.New(30 * 24 * time.Hour), Waiting: &waiting, Pulled: &pulled,
	})
}

func listsQueues(t *testing.T, c *caller) {
	c.queue(t, "list-1", &messagev1.CreateQueueRequest{})
	c.queue(t, "list-2", &messagev1.CreateQueueRequest{})
	first, err := c.ListQueues(t.Context(), &messagev1.ListQueuesRequest{PageSize: 1})
	if err != nil || len(first.GetQueues()) != 1 || first.GetNextPageToken() == "" || first.GetQueues()[0].Depth != nil {
		t.Fatalf("ListQueues answers %v, %v", first, err)
	}
	second, err := c.ListQueues(t.Context(), &messagev1.ListQueuesRequest{PageSize: 1, PageToken: first.GetNextPageToken()})
	if err != nil || len(second.GetQueues()) != 1 || second.GetQueues()[0].GetName() <= first.GetQueues()[0].GetName() {
		t.Errorf("the next page is %v, %v", second, err)
	}
	_, err = c.ListQueues(t.Context(), &messagev1.ListQueuesRequest{PageToken: "no token"})
	wantCode(t, err, connect.CodeInvalidArgument)
}

// Fields that have a value are changed, others are kept. A mask is more exact.
func updatesQueues(t *testing.T, c *caller) {
	topic := c.name + ".update"
	name := c.queue(t, "update", &messagev1.CreateQueueRequest{MaxAttempts: 3, Bindings: []*messagev1.Binding{{Topic: topic, Pattern: "#"}}})
	changed, err := c.UpdateQueue(t.Context(), &messagev1.UpdateQueueRequest{Name: name, MinBackoff: durationpb.New(time.Minute)})
	if err != nil || changed.GetMinBackoff().AsDuration() != time.Minute || changed.GetMaxAttempts() != 3 || len(changed.GetBindings()) != 1 {
		t.Errorf("UpdateQueue answers %v, %v", changed, err)
	}
	toTopic := &messagev1.PublishRequest{Topic: topic, Payload: text("x")}
	if _, err := c.Publish(t.Context(), toTopic); err != nil {
		t.Error(err)
	}
	mask, err := fieldmaskpb.New(&messagev1.UpdateQueueRequest{}, "bindings", "max_attempts")
	if err != nil {
		t.Fatal(err)
	}
	changed, err = c.UpdateQueue(t.Context(), &messagev1.UpdateQueueRequest{Name: name, MaxAttempts: 7, UpdateMask: mask})
	if err != nil || changed.GetMaxAttempts() != 7 || len(changed.GetBindings()) != 0 || changed.GetMinBackoff().AsDuration() != time.Minute {
		t.Errorf("UpdateQueue with a mask answers %v, %v", changed, err)
	}
	_, err = c.Publish(t.Context(), toTopic)
	wantCode(t, err, connect.CodeNotFound)
	got, err := c.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name})
	if err != nil || got.GetMaxAttempts() != 7 || len(got.GetBindings()) != 0 {
		t.Errorf("after that GetQueue answers %v, %v", got, err)
	}
	_, err = c.UpdateQueue(t.Context(), &messagev1.UpdateQueueRequest{Name: name, MessageTtl: durationpb.New(time.Hour)})
	wantCode(t, err, connect.CodeFailedPrecondition)
	_, err = c.UpdateQueue(t.Context(), &messagev1.UpdateQueueRequest{Name: name, MaxLength: 5})
	wantCode(t, err, connect.CodeFailedPrecondition)
}

// Everything in a queue is deleted with it.
func deletesQueues(t *testing.T, c *caller) {
	name := c.queue(t, "delete", &messagev1.CreateQueueRequest{})
	waiting := c.waiting(t, name)
	if _, err := c.DeleteQueue(t.Context(), &messagev1.DeleteQueueRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	_, err := c.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name})
	wantCode(t, err, connect.CodeNotFound)
	_, err = c.GetMessage(t.Context(), &messagev1.GetMessageRequest{Id: waiting.GetId()})
	wantCode(t, err, connect.CodeNotFound)
}

// A paused queue takes messages, but does not deliver any.
func pausesQueues(t *testing.T, c *caller) {
	name := c.queue(t, "pause", &messagev1.CreateQueueRequest{})
	for range 2 {
		if q, err := c.PauseQueue(t.Context(), &messagev1.PauseQueueRequest{Name: name}); err != nil || !q.GetPaused() {
			t.Fatalf("PauseQueue answers %v, %v", q, err)
		}
	}
	consumer := consume(t, c.grpc, &messagev1.Subscribe{Queue: name})
	publish(t, c, name, "waits")
	consumer.silent(t, 300*time.Millisecond)
	if q, err := c.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name}); err != nil || !q.GetPaused() || q.GetDepth() != 1 {
		t.Errorf("GetQueue answers %v, %v", q, err)
	}
	consumer.end(t)
}

// Consumers that are connected receive what has waited.
func resumesQueues(t *testing.T, c *caller) {
	name := c.queue(t, "resume", &messagev1.CreateQueueRequest{})
	if _, err := c.PauseQueue(t.Context(), &messagev1.PauseQueueRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	consumer := consume(t, c.grpc, &messagev1.Subscribe{Queue: name})
	id := publish(t, c, name, "waits")[0]
	consumer.silent(t, 100*time.Millisecond)
	for range 2 {
		if q, err := c.ResumeQueue(t.Context(), &messagev1.ResumeQueueRequest{Name: name}); err != nil || q.GetPaused() {
			t.Fatalf("ResumeQueue answers %v, %v", q, err)
		}
	}
	if m := consumer.next(t); m.GetId() != id || m.GetAttempt() != 1 {
		t.Errorf("after that comes %v", m)
	}
	consumer.ack(t, id)
	consumer.end(t)
}

func purgesQueues(t *testing.T, c *caller) {
	name := c.queue(t, "purge", &messagev1.CreateQueueRequest{})
	publish(t, c, name, "a", "b", "c")
	waiting := c.waiting(t, name)
	eventually(t, "the messages are in the queue", func() bool {
		q, err := c.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name})
		return err == nil && q.GetDepth() == 3
	})
	if res, err := c.PurgeQueue(t.Context(), &messagev1.PurgeQueueRequest{Name: name}); err != nil || res.GetPurged() != 4 {
		t.Errorf("PurgeQueue answers %v, %v", res, err)
	}
	if q, err := c.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name}); err != nil || q.GetDepth()+q.GetWaiting() != 0 {
		t.Errorf("after that GetQueue answers %v, %v", q, err)
	}
	_, err := c.GetMessage(t.Context(), &messagev1.GetMessageRequest{Id: waiting.GetId()})
	wantCode(t, err, connect.CodeNotFound)
}

// A thousand queues are listed in pages, each queue once and in order.
func TestPaging(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, backends(t, "postgres"))
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
	pages := map[int32]int{0: 11, 100: 11, 143: 7, 1000: 2} // for the thousand and task_queue
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
