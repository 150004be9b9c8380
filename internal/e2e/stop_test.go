package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"golang.org/x/sync/errgroup"

	messagev1 "plinth/api/plinth/message/v1"
)

// slowCall is a publish over REST whose body is not complete yet. The server has begun to read it.
type slowCall struct {
	body   *io.PipeWriter
	cancel func()
	done   chan struct{} // closed when the call has ended
	status int
	reply  struct{ ID string }
	err    error
}

func startSlowCall(t testing.TB, url, queue string) *slowCall {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	c := &slowCall{body: writer, done: make(chan struct{}), cancel: func() {
		cancel()
		_ = writer.CloseWithError(context.Canceled) // The client waits until the body has been read.
	}}
	t.Cleanup(c.cancel)
	reading := make(chan struct{})
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() { close(reading) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/message", reader)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue") // The server answers this when it begins to read.
	client := &http.Client{Transport: keyed{&http.Transport{ExpectContinueTimeout: patience}, adminKey}}
	t.Cleanup(client.CloseIdleConnections)
	go func() {
		defer close(c.done)
		res, err := client.Do(req)
		if c.err = err; err != nil {
			return
		}
		defer func() { _ = res.Body.Close() }()
		c.status = res.StatusCode
		c.err = json.NewDecoder(res.Body).Decode(&c.reply)
	}()
	select {
	case <-reading:
	case <-c.done:
		t.Fatalf("the call ended before its body: %d, %v", c.status, c.err)
	case <-time.After(patience):
		t.Fatal("the server does not read the body")
	}
	c.write(t, `{"queue":"`+queue+`","message":"slow`)
	return c
}

func (c *slowCall) write(t testing.TB, part string) {
	t.Helper()
	if _, err := io.WriteString(c.body, part); err != nil {
		t.Fatal(err)
	}
}

// finish sends the rest of the body, and returns the id of the message.
func (c *slowCall) finish(t testing.TB) string {
	t.Helper()
	c.write(t, `"}`)
	_ = c.body.Close()
	<-c.done
	if c.err != nil || c.status != http.StatusOK || c.reply.ID == "" {
		t.Fatalf("the slow call ended with status %d, %v", c.status, c.err)
	}
	return c.reply.ID
}

// canceledCall tests that a call ends on the server when its client goes away.
func canceledCall(t *testing.T, sys *system) {
	call := startSlowCall(t, sys.url, "task_queue")
	call.cancel()
	sys.server.says(t, `"path":"/api/v1/message","protocol":"rest","code":"canceled"`)
	<-call.done
}

// On SIGTERM the server reports that it is not ready, finishes the work in hand, and ends well. No message is lost.
func serverStops(t *testing.T, broker string) {
	const timeout = 20 * time.Second // So the drain window is 2 s, and streams have 5 s more.
	env := with(backends(t, broker), map[string]string{"SHUTDOWN_TIMEOUT": timeout.String()})
	server := start(t, "server", env)
	url := "http://" + server.address(t)
	ready(t, url)
	client := grpcClient(t, url)
	newQueue(t, client, "stop")
	ids := publish(t, client, "stop", "a", "b", "c")
	stream := consume(t, client, &messagev1.Subscribe{Queue: "stop", MaxOutstanding: 2})
	stream.next(t)
	stream.next(t)
	call := startSlowCall(t, url, "stop")
	reflect(t, url)
	watch := watchHealth(t, url, "")
	if got := <-watch; got != grpchealth.StatusServing {
		t.Fatalf("health is %s", got)
	}
	const serviceUnknown = 3
	unknown := watchHealth(t, url, "unknown.Service")
	if got := <-unknown; got != serviceUnknown {
		t.Errorf("health of an unknown service is %s", got)
	}

	began := time.Now()
	server.signal(t, syscall.SIGTERM)
	select {
	case got, open := <-unknown:
		t.Errorf("the watch of an unknown service tells %s, open: %v", got, open)
	default:
	}
	if got := <-watch; got != grpchealth.StatusNotServing {
		t.Errorf("after SIGTERM health is %s", got)
	}
	for path, want := range map[string]int{"/readyz": 503, "/health": 503, "/livez": 200} {
		if got := statusOf(url + path); got != want {
			t.Errorf("after SIGTERM %s answers %d, want %d", path, got, want)
		}
	}
	late := publish(t, client, "stop", "late")[0] // As from a load balancer that has not noticed yet.
	eventually(t, "no connection is taken any more", func() bool { return statusOf(url+"/livez") == 0 })
	slow := call.finish(t)
	stream.ack(t, ids[0])
	stream.silent(t, 200*time.Millisecond) // There is credit, but no new message is delivered.
	stream.ack(t, ids[1])
	if err := stream.closed(t); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	if status := server.exit(t, patience); status != 0 {
		t.Errorf("the server ended with status %d", status)
	}
	if took := time.Since(began); took > timeout/2 {
		t.Errorf("it took %s to stop, though nothing was left to wait for", took)
	}

	again := start(t, "server", env)
	url = "http://" + again.address(t)
	ready(t, url)
	client = grpcClient(t, url)
	rest := consume(t, client, &messagev1.Subscribe{Queue: "stop"})
	got := map[string]bool{rest.next(t).GetId(): true, rest.next(t).GetId(): true, rest.next(t).GetId(): true}
	if !got[ids[2]] || !got[late] || !got[slow] {
		t.Errorf("left in the queue were %v, want %s, %s and %s", got, ids[2], late, slow)
	}
	rest.silent(t, 200*time.Millisecond)

	// A consumer that settles nothing delays the stop for a while. A second signal ends the process at once.
	eventually(t, "the second signal ends the server", func() bool {
		_ = again.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-again.done:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	if status := again.cmd.ProcessState.ExitCode(); status != -1 {
		t.Errorf("after a second SIGTERM the status is %d, want the end by the signal", status)
	}
}

// watchHealth returns a channel of the statuses that grpc.health.v1.Health/Watch sends.
func watchHealth(t testing.TB, url, service string) <-chan grpchealth.Status {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	events := grpchealth.NewClient(http2(t), url, connect.WithGRPC()).Watch(ctx, &grpchealth.CheckRequest{Service: service})
	statuses := make(chan grpchealth.Status)
	go func() {
		defer close(statuses)
		for event := range events {
			if event.Err != nil {
				return
			}
			select {
			case statuses <- event.Response.Status:
			case <-ctx.Done():
				return
			}
		}
	}()
	return statuses
}

// reflect opens a reflection stream, and leaves it open.
func reflect(t testing.TB, url string) {
	t.Helper()
	stream := grpcreflect.NewClient(http2(t), url, connect.WithGRPC()).NewStream(context.Background())
	t.Cleanup(func() { _, _ = stream.Close() })
	if names, err := stream.ListServices(); err != nil || len(names) == 0 {
		t.Fatalf("reflection answers %v, %v", names, err)
	}
}

// A worker that is stopped in the middle of its work finishes the messages that it holds, and leaves the rest to the next
// worker.
func workerStops(t *testing.T, broker string) {
	env := backends(t, broker)
	server := start(t, "server", env)
	url := "http://" + server.address(t)
	ready(t, url)
	client := grpcClient(t, url)
	ids := make([]string, 2000)
	var group errgroup.Group
	group.SetLimit(32)
	for i := range ids {
		group.Go(func() error {
			res, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: taskQueue,
				Payload: &messagev1.PublishRequest_Message{Message: strconv.Itoa(i)}})
			ids[i] = res.GetId()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	first := start(t, "worker", env)
	first.says(t, "message handled")
	first.stop(t)
	done := handled(first)
	if len(done) == len(ids) {
		t.Fatal("the first worker has handled everything: it was not stopped in the middle of its work")
	}
	second := start(t, "worker", env)
	eventually(t, "every message is handled", func() bool { return len(missingFrom(ids, first, second)) == 0 })
	second.stop(t)
	server.stop(t)
	for id := range handled(second) {
		if done[id] {
			t.Errorf("the message %s was finished by the first worker and came again", id)
		}
	}
}

// handled returns the ids of the messages that a worker has handled.
func handled(worker *process) map[string]bool {
	ids := map[string]bool{}
	lines, _ := worker.log.from(0)
	for _, line := range lines {
		var entry struct{ Msg, ID string }
		if strings.Contains(line, "message handled") && json.Unmarshal([]byte(line), &entry) == nil {
			ids[entry.ID] = true
		}
	}
	return ids
}

// missingFrom returns the ids that none of the workers has handled.
func missingFrom(ids []string, workers ...*process) (missing []string) {
	all := map[string]bool{}
	for _, w := range workers {
		for id := range handled(w) {
			all[id] = true
		}
	}
	for _, id := range ids {
		if !all[id] {
			missing = append(missing, id)
		}
	}
	return missing
}
