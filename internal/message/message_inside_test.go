package message

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/broker"
)

// TestTenantHeaderIsFree checks that reading the headers of most messages, which have only that of the tenant, does not
// allocate. Every delivery does that.
func TestTenantHeaderIsFree(t *testing.T) {
	d := broker.Delivery{Message: broker.Message{Headers: map[string]string{tenantHeader: "default"}}}
	if n := testing.AllocsPerRun(100, func() { fromBroker(d) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	d.Headers = map[string]string{tenantHeader: "default", attemptsHeader: "2", "traceparent": "t"}
	if m := fromBroker(d); len(m.headers) != 1 || m.headers["traceparent"] != "t" || len(d.Headers) != 3 {
		t.Errorf("headers %v of %v", m.headers, d.Headers)
	}
}

// TestIDsOfOthers checks that an id that did not come from this service becomes one that the tables take, or no UUID.
func TestIDsOfOthers(t *testing.T) {
	const id = "0198c0de-0000-7000-8000-000000000001"
	for text, want := range map[string]string{
		id: id, "urn:uuid:" + id: id, "URN:UUID:" + id: id, "{" + id + "}": "{" + id + "}", "urn:uuid:x": "urn:uuid:x", "order-1": "order-1", "": "",
	} {
		if m := fromBroker(broker.Delivery{Message: broker.Message{ID: text}}); m.ID != want {
			t.Errorf("%q is %q", text, m.ID)
		}
	}
}

// TestPagesOfQueues lists the largest possible queues. The reply must not exceed 4 MiB, the default limit of gRPC clients.
func TestPagesOfQueues(t *testing.T) {
	large := Queue{Name: QueueName{strings.Repeat("q", 128)}, Policy: DefaultPolicy}
	for i := range 100 {
		large.Bindings = append(large.Bindings, Binding{strings.Repeat("t", 64), fmt.Sprintf("%0120d", i)})
	}
	small := Queue{Name: large.Name, Policy: DefaultPolicy}
	for _, test := range []struct {
		of              Queue
		there, size     int
		atLeast, atMost int
	}{
		{small, 1001, 1000, 1000, 1000}, {small, 1000, 1000, 1000, 1000}, {small, 5, 1000, 5, 5}, {small, 0, 1000, 0, 0},
		{large, 1001, 1000, 90, 200}, {large, 1, 1, 1, 1}, {large, 2, 1, 1, 1},
	} {
		var queues []Queue
		for range test.there {
			queues = append(queues, test.of)
		}
		n := pageLength(queues, test.size)
		if n < test.atLeast || n > test.atMost {
			t.Errorf("%d in a page of %d", n, test.size)
		}
		reply := &messagev1.ListQueuesResponse{}
		for _, q := range queues[:n] {
			reply.Queues = append(reply.Queues, queueToProto(q))
		}
		if data, err := protojson.Marshal(reply); err != nil || len(data) > 3<<20 {
			t.Errorf("a reply of %d bytes: %v", len(data), err)
		}
	}
}
