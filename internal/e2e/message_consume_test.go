package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// consumer is a Consume stream and what it has received.
type consumer struct {
	stream *connect.BidiStreamForClientSimple[messagev1.ConsumeRequest, messagev1.ConsumeResponse]
	got    chan *messagev1.Message
	err    error // why the stream ended; read after got is closed
}

// consume subscribes, and returns once the server has subscribed it.
func consume(t testing.TB, client messagev1.MessageServiceClient, subscribe *messagev1.Subscribe) *consumer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := client.Consume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &consumer{stream: stream, got: make(chan *messagev1.Message, 1000)}
	c.send(t, &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Subscribe{Subscribe: subscribe}})
	stream.ResponseHeader() // comes once the server has subscribed
	go func() {
		defer close(c.got)
		for {
			res, err := stream.Receive()
			if err != nil {
				c.err = err
				return
			}
			for _, m := range res.GetMessages() {
				c.got <- m
			}
		}
	}()
	return c
}

func (c *consumer) send(t testing.TB, req *messagev1.ConsumeRequest) {
	t.Helper()
	if err := c.stream.Send(req); err != nil {
		t.Fatal(err)
	}
}

func (c *consumer) ack(t testing.TB, ids ...string) {
	t.Helper()
	c.send(t, &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{Ids: ids}}})
}

func (c *consumer) nack(t testing.TB, id string, delay time.Duration) {
	t.Helper()
	item := &messagev1.NackItem{Id: id, Delay: durationpb.New(delay), Reason: "not now"}
	c.send(t, &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Nack{Nack: &messagev1.Nack{Items: []*messagev1.NackItem{item}}}})
}

func (c *consumer) extend(t testing.TB, deadline time.Duration, ids ...string) {
	t.Helper()
	extend := &messagev1.Extend{Ids: ids, AckDeadline: durationpb.New(deadline)}
	c.send(t, &messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Extend{Extend: extend}})
}

// next waits for a message.
func (c *consumer) next(t testing.TB) *messagev1.Message {
	t.Helper()
	select {
	case m, more := <-c.got:
		if !more {
			t.Fatalf("the stream ended: %v", c.err)
		}
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil
}

// silent fails the test if a message comes within a while.
func (c *consumer) silent(t testing.TB, during time.Duration) {
	t.Helper()
	select {
	case m, more := <-c.got:
		t.Errorf("got %v (stream open: %v), where nothing should come", m, more)
	case <-time.After(during):
	}
}

// end half-closes the stream, and waits until it ends without an error.
func (c *consumer) end(t testing.TB) {
	t.Helper()
	if err := c.stream.CloseRequest(); err != nil {
		t.Error(err)
	}
	if err := c.closed(t); err != nil {
		t.Errorf("the stream ended: %v", err)
	}
}

// closed waits until the stream ends, and returns its error, nil for a good end.
func (c *consumer) closed(t testing.TB) error {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case _, more := <-c.got:
			if more {
				continue
			}
			if errors.Is(c.err, io.EOF) {
				return nil
			}
			return c.err
		case <-deadline:
			t.Fatal("the stream does not end")
		}
	}
}

// consuming tests what a consumer may rely on, over both protocols that stream.
func consuming(t *testing.T, sys *system) {
	t.Run("failing streams", func(t *testing.T) {
		t.Parallel()
		failingStreams(t, grpcClient(t, sys.url))
	})
	for _, v := range []variant{{name: "grpc", options: []connect.ClientOption{connect.WithGRPC()}}, {name: "connect"}} {
		for name, test := range map[string]func(*testing.T, messagev1.MessageServiceClient, string){
			"ack": consumeAck, "nack": consumeNack, "lease": consumeLease, "extend": consumeExtend,
			"end": consumeEnd, "credit": consumeCredit, "deleted": consumeDeleted,
		} {
			t.Run(v.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				client := messagev1.NewMessageServiceClient(http2(t), sys.url, v.options...)
				queue := v.name + "-" + name
				newQueue(t, client, queue)
				test(t, client, queue)
			})
		}
		t.Run(v.name+"/cut", func(t *testing.T) {
			t.Parallel()
			consumeCut(t, sys.url, v)
		})
	}
}

func consumeAck(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	ids := publish(t, client, queue, "a", "b", "c")
	c := consume(t, client, &messagev1.Subscribe{Queue: queue})
	for _, id := range ids {
		if m := c.next(t); m.GetId() != id || m.GetAttempt() != 1 {
			t.Errorf("got %v, want the message %s", m, id)
		}
	}
	c.ack(t, ids...)
	c.end(t)
	again := consume(t, client, &messagev1.Subscribe{Queue: queue})
	again.silent(t, 300*time.Millisecond)
	again.end(t)
}

func consumeNack(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	c := consume(t, client, &messagev1.Subscribe{Queue: queue})
	id := publish(t, client, queue, "a")[0]
	if m := c.next(t); m.GetId() != id || m.GetAttempt() != 1 {
		t.Fatalf("got %v", m)
	}
	c.nack(t, id, 0)
	if m := c.next(t); m.GetId() != id || m.GetAttempt() != 2 || string(m.GetPayload()) != "a" {
		t.Fatalf("after a nack: %v", m)
	}
	const delay = 500 * time.Millisecond
	before := time.Now()
	c.nack(t, id, delay)
	if m := c.next(t); m.GetId() != id || m.GetAttempt() != 3 {
		t.Fatalf("after a nack with a delay: %v", m)
	}
	if took := time.Since(before); took < delay {
		t.Errorf("it came again after %s, not after %s", took, delay)
	}
	c.ack(t, id)
	c.end(t)
}

func consumeLease(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	c := consume(t, client, &messagev1.Subscribe{Queue: queue, AckDeadline: durationpb.New(time.Second)})
	before := time.Now()
	id := publish(t, client, queue, "a")[0]
	c.next(t)
	if m := c.next(t); m.GetId() != id || m.GetAttempt() != 2 {
		t.Errorf("after the ack deadline: %v", m)
	}
	if took := time.Since(before); took < time.Second {
		t.Errorf("it came again after %s", took)
	}
	c.ack(t, id)
	c.end(t)
}

func consumeExtend(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	c := consume(t, client, &messagev1.Subscribe{Queue: queue, AckDeadline: durationpb.New(time.Second)})
	id := publish(t, client, queue, "a")[0]
	c.next(t)
	c.extend(t, time.Minute, id)
	c.silent(t, 1500*time.Millisecond)
	c.extend(t, time.Second, id) // From now, which may be sooner than before.
	if m := c.next(t); m.GetId() != id || m.GetAttempt() != 2 {
		t.Errorf("after the extended deadline: %v", m)
	}
	c.ack(t, id)
	c.end(t)
}

func consumeEnd(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	ids := publish(t, client, queue, "a", "b")
	first := consume(t, client, &messagev1.Subscribe{Queue: queue})
	first.next(t)
	first.next(t)
	first.ack(t, ids[0])
	first.end(t)
	second := consume(t, client, &messagev1.Subscribe{Queue: queue})
	if m := second.next(t); m.GetId() != ids[1] || m.GetAttempt() != 2 {
		t.Errorf("after the end of the other stream: %v", m)
	}
	second.silent(t, 300*time.Millisecond)
	second.ack(t, ids[1])
	second.end(t)
}

func consumeCredit(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	ids := publish(t, client, queue, "a", "b", "c", "d")
	c := consume(t, client, &messagev1.Subscribe{Queue: queue, MaxOutstanding: 2})
	c.next(t)
	c.next(t)
	c.silent(t, 300*time.Millisecond)
	c.ack(t, ids[0])
	if m := c.next(t); m.GetId() != ids[2] {
		t.Errorf("after one ack: %v", m)
	}
	c.silent(t, 300*time.Millisecond)
	c.nack(t, ids[1], 10*time.Minute) // It waits elsewhere, and no longer uses credit.
	if m := c.next(t); m.GetId() != ids[3] {
		t.Errorf("after a nack: %v", m)
	}
	c.ack(t, ids[2], ids[3])
	c.end(t)
}

func consumeDeleted(t *testing.T, client messagev1.MessageServiceClient, queue string) {
	c := consume(t, client, &messagev1.Subscribe{Queue: queue})
	if _, err := client.DeleteQueue(t.Context(), &messagev1.DeleteQueueRequest{Name: queue}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.closed(t), connect.CodeNotFound)
}

// consumeCut cuts the connection of a consumer. What it held goes to another one at once.
func consumeCut(t *testing.T, url string, v variant) {
	var cut sync.Once
	var conn net.Conn
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed, err := (&net.Dialer{}).DialContext(ctx, network, address)
		cut.Do(func() { conn = dialed })
		return dialed, err
	}}
	dying := &http.Client{Transport: keyed{transport, adminKey}}
	client := messagev1.NewMessageServiceClient(http2(t), url, v.options...)
	queue := v.name + "-cut"
	newQueue(t, client, queue)
	first := consume(t, messagev1.NewMessageServiceClient(dying, url, v.options...), &messagev1.Subscribe{Queue: queue})
	ids := publish(t, client, queue, "a", "b")
	first.next(t)
	first.next(t)
	second := consume(t, client, &messagev1.Subscribe{Queue: queue})
	second.silent(t, 200*time.Millisecond)

	before := time.Now()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{second.next(t).GetId(): true, second.next(t).GetId(): true}
	if !got[ids[0]] || !got[ids[1]] {
		t.Errorf("the other consumer got %v, want %v", got, ids)
	}
	if took := time.Since(before); took > 5*time.Second {
		t.Errorf("that took %s", took)
	}
	second.ack(t, ids...)
	second.end(t)
}

// A thousand streams cost less than 100 KiB each. This runs before the other tests of a system, while nothing else grows.
func consumeMemory(t *testing.T, sys *system) {
	const streams, most = 1000, 100 << 10 // KiB
	client := grpcClient(t, sys.url)
	const queue = "memory"
	newQueue(t, client, queue)
	consume(t, client, &messagev1.Subscribe{Queue: queue})
	before := sys.server.memory(t)
	var group errgroup.Group
	group.SetLimit(32)
	for range streams {
		group.Go(func() error {
			consume(t, client, &messagev1.Subscribe{Queue: queue})
			return nil
		})
	}
	_ = group.Wait()
	grown := sys.server.memory(t) - before
	t.Logf("%d streams: %d MiB", streams, grown>>10)
	if grown >= most {
		t.Errorf("%d streams cost %d MiB", streams, grown>>10)
	}
}

// memory returns the resident memory of the process, in KiB.
func (p *process) memory(t testing.TB) int {
	t.Helper()
	output, err := exec.Command(tool(t, "ps"), "-o", "rss=", "-p", strconv.Itoa(p.cmd.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	kib, err := strconv.Atoi(strings.TrimSpace(string(output)))
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
