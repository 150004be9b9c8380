package message

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/outbound"
)

// A name that leads to an address that is not allowed may lead elsewhere tomorrow: it is tried again. What the log alone may have, such as that
// address, is in no reason.
func TestPushToRefusedAddress(t *testing.T) {
	t.Parallel()
	refused := errs.Wrap(errors.New("10.0.0.9 is private"), errs.PermissionDenied, "example.com: leads to a private address, which is not allowed")
	j := judge(nil, refused)
	if j.says != saysFailing || j.reject || !errs.Retryable(j.err) || strings.Contains(j.err.Error(), "10.0.0.9") || !strings.HasPrefix(j.err.Error(), "example.com: leads") {
		t.Errorf("%+v", j)
	}
}

// What an answer says of the endpoint, and of the message alone.
func TestAnswersOfEndpoints(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]answer{
		200: saysTaken, 204: saysTaken, 299: saysTaken,
		301: saysFailing, 304: saysFailing, 307: saysFailing, // None of them is followed, whatever the message is.
		400: saysDeclined, 401: saysDeclined, 409: saysDeclined, 410: saysDeclined, 499: saysDeclined,
		429: saysOverload, 503: saysOverload, 504: saysTimeout,
		500: saysFailing, 502: saysFailing, 599: saysFailing,
	} {
		if j := judge(&outbound.Reply{StatusCode: status}, nil); j.says != want || j.reject != (status == 400 || status == 410) || (j.err == nil) != (want == saysTaken) {
			t.Errorf("%d: %+v", status, j)
		}
	}
}

// A call has the timeout of its push, and what bounds what it may cost: the answer that is read, and no breaker of others.
func TestPushRequest(t *testing.T) {
	t.Parallel()
	target := &target{timeout: 7 * time.Second, secrets: make([]outbound.Secret, 1), header: http.Header{}}
	r := target.request(QueueName{"q"}, Message{ID: uuid.NewString(), Body: []byte("x")}, time.Now())
	if r.Timeout != 7*time.Second || r.MaxReply != maxAnswer || !r.OwnBreaker || r.Redirects != 0 || r.Retry.Attempts != 0 || len(r.Webhook.Secrets) != 1 {
		t.Errorf("%+v", r)
	}
}
