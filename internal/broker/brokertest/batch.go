package brokertest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"plinth/internal/broker"
)

func testBatch(t *testing.T, open Open) {
	c := start(t, open)
	queue, bound, topic := Declare(t, c, broker.Queue{}), Declare(t, c, broker.Queue{}), TopicName()
	Bind(t, c, bound, topic, "a.*")
	full := Declare(t, c, broker.Queue{MaxLength: 1})
	fill(t, c, broker.Address{Queue: full}, 1+overshoot)
	entries := []struct {
		to   broker.Address
		want error
	}{
		{broker.Address{Queue: queue}, nil},
		{broker.Address{Queue: QueueName(t, c)}, broker.ErrNoQueue},
		{broker.Address{Topic: topic, RoutingKey: "a.b"}, nil},
		{broker.Address{Queue: full}, broker.ErrFull},
		{broker.Address{Topic: topic, RoutingKey: "b"}, broker.ErrNoQueue},
		{broker.Address{Queue: queue}, nil},
		{broker.Address{Topic: TopicName()}, broker.ErrNoQueue},
		{broker.Address{Queue: full}, broker.ErrFull},
	}
	var batch []broker.Publication
	for i, e := range entries {
		batch = append(batch, broker.Publication{To: e.to, Message: Message(fmt.Sprint(i))})
	}
	got := c.PublishBatch(Patient(t), batch)
	if len(got) != len(batch) {
		t.Fatalf("PublishBatch gave %d errors for %d publications", len(got), len(batch))
	}
	for i, e := range entries {
		if !errors.Is(got[i], e.want) {
			t.Errorf("publication %d of the batch: %v, want %v", i, got[i], e.want)
		}
	}
	WantReady(t, c, queue, 2)
	wantMessage(t, Receive(t, Subscribe(t, c, bound, 1)).Message, batch[2].Message)

	if got := c.PublishBatch(Patient(t), nil); len(got) != 0 {
		t.Errorf("an empty batch gave %v", got)
	}
}

func testLargeBatch(t *testing.T, open Open) {
	const messages = 1000
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	batch := make([]broker.Publication, messages)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: Message(fmt.Sprint(i))}
	}
	for i, err := range c.PublishBatch(Patient(t), batch) {
		if err != nil {
			t.Fatalf("publication %d of the batch: %v", i, err)
		}
	}
	WantReady(t, c, queue, messages)
	sub := Subscribe(t, c, queue, 100)
	var seen tally
	for range messages {
		d := Receive(t, sub)
		seen.add(d.ID)
		Ack(t, d)
	}
	seen.wantOnce(t, messages)
	ReceiveNothing(t, sub)
}

func testBatchCancel(t *testing.T, open Open) {
	c := start(t, open)
	queue := Declare(t, c, broker.Queue{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	batch := make([]broker.Publication, 3)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: Message("never mind")}
	}
	got := c.PublishBatch(cancelled, batch)
	if len(got) != len(batch) {
		t.Fatalf("PublishBatch gave %d errors for %d publications", len(got), len(batch))
	}
	for i, err := range got {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("publication %d of the batch: %v, want the context's error", i, err)
		}
	}
}
