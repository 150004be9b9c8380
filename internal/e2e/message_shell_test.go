package e2e

import (
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	messagev1 "plinth/api/plinth/message/v1"
)

// TestShellConsumes has twenty lines of shell consume with curl, while the server is killed and started again. Each message comes, and
// is gone in the end.
func TestShellConsumes(t *testing.T) {
	t.Parallel()
	tool(t, "curl")
	lasts, every := 6*time.Second, 2*time.Second
	if ci() {
		lasts = time.Minute
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // The server has the same address after each start.
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	env := with(backends(t, "postgres"), map[string]string{"HTTP_ADDR": address})
	server := start(t, "server", env)
	url := "http://" + address
	ready(t, url)
	client := messagev1.NewMessageServiceClient(http1(t), url)
	newQueue(t, client, "shell")
	consumer := exec.Command("testdata/clients/consume.sh", url, "shell")
	consumer.Env = append(consumer.Environ(), "KEY="+adminKey)
	shell := launch(t, "consume.sh", consumer)

	var published []string
	restart := time.Now().Add(every)
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for end := time.Now().Add(lasts); time.Now().Before(end); <-pace.C {
		if time.Now().After(restart) {
			server.kill()
			server = start(t, "server", env)
			ready(t, url)
			restart = time.Now().Add(every)
		}
		request := &messagev1.PublishRequest{Queue: "shell", Payload: text("x"), IdempotencyKey: uuid.NewString()}
		eventually(t, "a message is published", func() bool {
			res, err := client.Publish(t.Context(), request)
			if err == nil {
				published = append(published, res.GetId())
			}
			return err == nil
		})
	}
	eventually(t, "each message came, and the queue is empty", func() bool {
		came, _ := shell.log.from(0)
		q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: "shell"})
		return err == nil && q.GetDepth()+q.GetWaiting()+q.GetPulled() == 0 &&
			!slices.ContainsFunc(published, func(id string) bool { return !slices.Contains(came, id) })
	})
	if q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: "shell"}); err != nil || q.GetDeadLetters() != 0 {
		t.Errorf("%d dead letters, %v", q.GetDeadLetters(), err)
	}
	t.Logf("%d messages came", len(published))
}
