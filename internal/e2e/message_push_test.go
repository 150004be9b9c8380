package e2e

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/outbound"
)

// hook is a call of a push, as webhook.mjs reads it.
type hook struct {
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Secrets []string          `json:"secrets"`
	Wrong   string            `json:"wrong"`
}

// pushing kills a worker while it calls, which has another one call again, changes the secret, and has all calls verified by the scheme's own
// library.
func pushing(t *testing.T, broker string) {
	env := with(backends(t, broker), map[string]string{
		"OUTBOUND_ALLOWED_NETWORKS": "127.0.0.0/8", "SECRET_KEYS": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	})
	calls := make(chan hook, 100)
	var hang atomic.Bool
	hang.Store(true)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		headers := map[string]string{}
		for name := range r.Header {
			headers[strings.ToLower(name)] = r.Header.Get(name)
		}
		calls <- hook{Headers: headers, Body: base64.StdEncoding.EncodeToString(body), Wrong: outbound.NewSecret()}
		if hang.Load() {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(func() { endpoint.CloseClientConnections(); endpoint.Close() })
	r := &replicas{t: t, env: env}
	r.start(0)
	client := r.clients[0]
	queue, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{
		Name: "hooked", MinBackoff: durationpb.New(10 * time.Millisecond), Push: &messagev1.Push{Url: endpoint.URL, Timeout: durationpb.New(20 * time.Second)},
	})
	if err != nil {
		t.Fatal(err)
	}
	first := queue.GetPush().GetSecret()
	next := func(secrets ...string) hook {
		t.Helper()
		select {
		case c := <-calls:
			c.Secrets = secrets
			return c
		case <-time.After(patience):
			t.Fatal("no call comes")
			return hook{}
		}
	}
	worker := start(t, "worker", env)
	id := publish(t, client, "hooked", `{"text": "größer"}`)[0]
	verified := []hook{next(first)}
	worker.kill()
	hang.Store(false)
	start(t, "worker", env)
	again := next(first)
	if verified = append(verified, again); again.Headers["webhook-id"] != id || again.Headers["ce-id"] != id {
		t.Errorf("after the worker was killed, %v comes, want %s", again.Headers, id)
	}
	eventually(t, "it is acknowledged, and that is told", func() bool {
		q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: "hooked"})
		if err != nil {
			t.Fatal(err)
		}
		if q.GetPush().GetSecret() != "" {
			t.Error("the secret is shown again")
		}
		return q.GetDepth()+q.GetWaiting()+q.GetDeadLetters() == 0 && q.GetPushStatus().GetLastSuccessTime() != nil &&
			q.GetPushStatus().GetBreaker() == messagev1.PushBreaker_PUSH_BREAKER_CLOSED
	})
	queue, err = client.UpdateQueue(t.Context(), &messagev1.UpdateQueueRequest{Name: "hooked", UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"push.secret"}}})
	if err != nil || queue.GetPush().GetSecret() == "" || queue.GetPush().GetSecret() == first || queue.GetPush().GetUrl() != endpoint.URL {
		t.Fatalf("%v %v", queue, err)
	}
	for deadline := time.Now().Add(patience); ; { // The worker notices soon.
		publish(t, client, "hooked", "{}")
		c := next(first)
		if len(strings.Fields(c.Headers["webhook-signature"])) == 2 {
			c.Secrets = append(c.Secrets, queue.GetPush().GetSecret())
			verified = append(verified, c)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new secret does not sign")
		}
	}
	encoded, err := json.Marshal(verified)
	if err != nil {
		t.Fatal(err)
	}
	out, err := node(t, "webhook.mjs", "standardwebhooks", string(encoded)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `{"verified":3}`) {
		t.Errorf("%s %v", out, err)
	}
}
