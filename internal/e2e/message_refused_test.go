package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// TestMessageThatRabbitMQRefuses has a RabbitMQ refuse what the service allows. That is the error, or the dead letter, of that
// message alone.
func TestMessageThatRabbitMQRefuses(t *testing.T) {
	t.Parallel()
	node := startRabbitMQWith(t, "max_message_size = 1048576\nframe_max = 32768\n")
	server := start(t, "server", with(backends(t, "postgres"), map[string]string{"BROKER": "rabbitmq", "AMQP_URL": node.url}))
	url := "http://" + server.address(t)
	ready(t, url)
	client := grpcClient(t, url)
	for name, refused := range map[string]*messagev1.PublishRequest{
		"a body over max_message_size": {Payload: &messagev1.PublishRequest_Data{Data: bytes.Repeat([]byte("x"), 2<<20)}},
		"attributes over frame_max":    {Payload: text("x"), Attributes: manyAttributes()},
	} {
		t.Run(name, func(t *testing.T) {
			refused.Queue = strings.Fields(name)[0]
			others := "beside-" + refused.GetQueue()
			for _, queue := range []string{refused.GetQueue(), others} {
				if _, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: queue}); err != nil {
					t.Fatal(err)
				}
			}
			var published, failed atomic.Int64
			var bystanders sync.WaitGroup
			stop := make(chan struct{})
			for range 4 {
				bystanders.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						published.Add(1)
						if _, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: others, Payload: text("x")}); err != nil {
							failed.Add(1)
						}
					}
				})
			}
			for range 10 {
				_, err := client.Publish(t.Context(), refused)
				wantCode(t, err, connect.CodeInvalidArgument)
			}
			const delayed = 5
			for range delayed {
				refused.When = &messagev1.PublishRequest_Delay{Delay: durationpb.New(time.Millisecond)}
				if _, err := client.Publish(t.Context(), refused); err != nil {
					t.Fatal(err)
				}
				later := &messagev1.PublishRequest{Queue: others, Payload: text("later"), When: refused.When}
				published.Add(1)
				if _, err := client.Publish(t.Context(), later); err != nil {
					t.Fatal(err)
				}
			}
			within(t, patience, "what is refused is a dead letter", func() bool {
				letters, err := client.ListDeadLetters(t.Context(), &messagev1.ListDeadLettersRequest{Queue: refused.GetQueue()})
				if code := statusOf(url + "/readyz"); code != http.StatusOK {
					t.Errorf("/readyz answers %d", code)
				}
				return err == nil && len(letters.GetDeadLetters()) > 0 && strings.Contains(letters.GetDeadLetters()[0].GetReason(), "RabbitMQ")
			})
			close(stop)
			bystanders.Wait()
			if n := failed.Load(); n > 0 {
				t.Errorf("%d of %d publishes of others failed", n, published.Load())
			}
			within(t, patience, "all of the others are in their queue", func() bool {
				q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: others})
				return err == nil && q.GetDepth() == published.Load()
			})
		})
	}
	server.kill()
}

// manyAttributes are as large as the service allows.
func manyAttributes() map[string]string {
	attributes := map[string]string{}
	for i := range 64 {
		attributes[fmt.Sprintf("key-%d", i)] = strings.Repeat("v", 1000)
	}
	return attributes
}
