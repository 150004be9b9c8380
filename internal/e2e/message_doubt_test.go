package e2e

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// TestMessagesInDoubtOnRabbitMQ freezes a RabbitMQ while delayed messages are due. Those that were sent to it cannot be cancelled until it is
// known what became of them; one whose cancel succeeded never comes, and each of the others comes once.
func TestMessagesInDoubtOnRabbitMQ(t *testing.T) {
	t.Parallel()
	if !ci() {
		t.Skip("it starts a RabbitMQ of its own: run it with CI=true")
	}
	const messages = 20
	node := startRabbitMQ(t)
	server := start(t, "server", with(backends(t, "postgres"), map[string]string{"BROKER": "rabbitmq", "AMQP_URL": node.url}))
	url := "http://" + server.address(t)
	ready(t, url)
	client := grpcClient(t, url)
	newQueue(t, client, "doubt")
	var ids []string
	for range messages {
		r, err := client.Publish(t.Context(), &messagev1.PublishRequest{
			Queue: "doubt", Payload: text("x"), When: &messagev1.PublishRequest_Delay{Delay: durationpb.New(2 * time.Second)},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.GetId())
	}
	node.node.signal(t, syscall.SIGSTOP)
	thaw := sync.OnceFunc(func() { node.node.signal(t, syscall.SIGCONT) })
	defer thaw()
	cancel := func(id string) error {
		_, err := client.CancelMessage(t.Context(), &messagev1.CancelMessageRequest{Id: id})
		return err
	}
	cancelled := map[string]bool{}
	if cancel(ids[0]) == nil { // It was not sent yet.
		cancelled[ids[0]] = true
	}
	within(t, patience, "one is in doubt", func() bool {
		waiting, err := client.GetMessage(t.Context(), &messagev1.GetMessageRequest{Id: ids[1]})
		return err == nil && waiting.GetDeliverTime().AsTime().Before(time.Now().Add(-time.Second)) // The relay has had a second for it.
	})
	for _, id := range ids[1:] {
		switch err := cancel(id); {
		case err == nil:
			cancelled[id] = true
		case connect.CodeOf(err) != connect.CodeFailedPrecondition:
			t.Errorf("cancelling what is in doubt: %v", err)
		}
	}
	if len(cancelled) > messages/2 {
		t.Errorf("%d of %d were cancelled, although they were sent", len(cancelled), messages)
	}
	thaw()
	came := map[string]int{}
	within(t, patience, "what was not cancelled comes", func() bool {
		pulled, err := client.Pull(t.Context(), &messagev1.PullRequest{Queue: "doubt", MaxMessages: 100, AckDeadline: durationpb.New(10 * time.Minute)})
		if err != nil {
			return false
		}
		for _, m := range pulled.GetMessages() {
			came[m.GetId()]++
		}
		return len(came) >= messages-len(cancelled)
	})
	r, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: "doubt", Payload: text("last")})
	if err != nil {
		t.Fatal(err)
	}
	within(t, patience, "all that is in the queue comes", func() bool {
		pulled, err := client.Pull(t.Context(), &messagev1.PullRequest{Queue: "doubt", MaxMessages: 100, AckDeadline: durationpb.New(10 * time.Minute)})
		last := false
		for _, m := range pulled.GetMessages() {
			last = last || m.GetId() == r.GetId()
			came[m.GetId()]++
		}
		return err == nil && last
	})
	for id, n := range came {
		if n != 1 || cancelled[id] {
			t.Errorf("%s came %d times, cancelled: %v", id, n, cancelled[id])
		}
	}
}
