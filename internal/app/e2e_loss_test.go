package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	messagev1 "plinth/api/plinth/message/v1"
)

// The storm of TestNothingIsLost.
const (
	kills      = 25
	publishers = 8
)

// Whatever is killed or cut off, and whenever: a message whose id was answered is handled.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	for _, broker := range brokers {
		t.Run(broker, func(t *testing.T) {
			t.Parallel()
			env := backends(t, broker)
			carrier := map[string]string{"postgres": "DATABASE_URL", "rabbitmq": "AMQP_URL"}[broker]
			proxy, through := newProxy(t, env[carrier])
			proxy.open()
			nothingIsLost(t, with(env, map[string]string{carrier: through}), proxy.partition)
		})
	}
}

func nothingIsLost(t *testing.T, env map[string]string, partition func()) {
	server := start(t, "server", env)
	workers := []*process{start(t, "worker", env)}
	var url atomic.Value
	url.Store("http://" + server.address(t))
	ready(t, url.Load().(string))

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var mu sync.Mutex
	var ids []string
	failed := 0
	var publishing sync.WaitGroup
	for i := range publishers {
		publish := []func(context.Context, *http.Client, string) (string, error){publishREST, publishGRPC}[i%2]
		client := []func(testing.TB) *http.Client{http1, http2}[i%2](t)
		publishing.Go(func() {
			for ctx.Err() == nil {
				id, err := publish(ctx, client, url.Load().(string))
				mu.Lock()
				if err == nil {
					ids = append(ids, id)
				} else {
					failed++
				}
				mu.Unlock()
				<-time.After(10 * time.Millisecond) // The pace that the worker keeps up with.
			}
		})
	}

	killed := map[string]int{}
	for i := range kills {
		<-time.After(rand.N(400 * time.Millisecond)) // Any moment may be the wrong one.
		if rand.N(2) == 0 {
			killed["server"]++
			server.kill()
			server = start(t, "server", env)
			url.Store("http://" + server.address(t))
		} else {
			killed["worker"]++
			workers[len(workers)-1].kill()
			workers = append(workers, start(t, "worker", env))
		}
		if i%5 == 0 { // The processes live, and lose the way to what carries the messages.
			partition()
		}
	}
	ready(t, url.Load().(string))
	stop()
	publishing.Wait()

	t.Logf("killed: %v; %d publishes answered, %d failed", killed, len(ids), failed)
	if len(ids) < kills || failed == 0 {
		t.Fatal("the storm proves nothing")
	}
	var missing []string
	deadline := time.Now().Add(patience)
	for {
		if missing = missingFrom(ids, workers...); len(missing) == 0 || time.Now().After(deadline) {
			break
		}
		<-time.After(100 * time.Millisecond)
	}
	if len(missing) > 0 {
		t.Errorf("%d of %d messages are lost, among them %v", len(missing), len(ids), missing[:min(3, len(missing))])
	}
	server.stop(t)
	workers[len(workers)-1].stop(t)
}

func publishREST(ctx context.Context, client *http.Client, url string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/message",
		bytes.NewReader([]byte(`{"queue":"task_queue","message":"storm"}`)))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	var reply struct{ ID string }
	if err := json.Unmarshal(body, &reply); err != nil || reply.ID == "" {
		return "", fmt.Errorf("status %d: %s", res.StatusCode, body)
	}
	return reply.ID, nil
}

func publishGRPC(ctx context.Context, client *http.Client, url string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := messagev1.NewMessageServiceClient(client, url, connect.WithGRPC()).Publish(ctx,
		&messagev1.PublishRequest{Queue: taskQueue, Payload: &messagev1.PublishRequest_Message{Message: "storm"}})
	return res.GetId(), err
}
