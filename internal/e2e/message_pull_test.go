package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

const pullQueue = "pulled"

// replicas are two servers of one system, of which the test kills now one and now the other.
type replicas struct {
	t       *testing.T
	env     map[string]string
	servers [2]*process
	clients [2]messagev1.MessageServiceClient
	kills   int
}

// pullStorm publishes at one server, pulls from one and settles at one, each of them by chance, and kills one that is not about to
// be asked between every two steps. Some leases it lets end. Each message has to be settled in the end, and no receipt may settle
// anything but its own delivery.
func pullStorm(t *testing.T, broker string) {
	rounds := 3
	if ci() {
		rounds = 25 // three kills each
	}
	r := &replicas{t: t, env: backends(t, broker)}
	for i := range r.servers {
		r.start(i)
	}
	newQueue(t, r.clients[0], pullQueue)
	left, settled := map[string]bool{}, map[string]bool{}
	var stale []string
	doubled := 0
	for range rounds {
		id := publish(t, r.next(), pullQueue, "x")[0]
		left[id] = true
		r.kill()
		m := r.pull(2 * time.Second)
		if m == nil {
			continue // It is held by a server that was killed.
		}
		switch {
		case settled[m.GetId()]: // A relay that is killed after the broker's confirm publishes twice, and so comes what it published.
			doubled++
		case !left[m.GetId()]:
			t.Errorf("%s was never published", m.GetId())
		}
		r.kill()
		r.refused(stale)
		switch rand.IntN(4) {
		case 0: // Its lease will end.
			continue
		case 1:
			res, err := r.next().Nack(t.Context(), &messagev1.NackRequest{Queue: pullQueue, Receipts: []string{m.GetReceipt()}, Delay: durationpb.New(0)})
			if err != nil {
				t.Fatal(err)
			}
			if res.GetResults()[0].GetError() == nil {
				stale = append(stale, m.GetReceipt())
			}
		default:
			if r.ack(m) {
				delete(left, m.GetId())
				settled[m.GetId()] = true
				stale = append(stale, m.GetReceipt())
			}
		}
		r.kill()
	}
	for start := time.Now(); len(left) > 0; {
		if time.Since(start) > 3*patience {
			t.Fatalf("%d messages of %d are lost", len(left), rounds)
		}
		if m := r.pull(20 * time.Second); m != nil && r.ack(m) {
			delete(left, m.GetId())
			stale = append(stale, m.GetReceipt())
		}
	}
	r.refused(stale)
	t.Logf("%d kills in %d rounds, %d messages came again after they were settled", r.kills, rounds, doubled)
}

func (r *replicas) start(i int) {
	r.t.Helper()
	r.servers[i] = start(r.t, "server", r.env)
	url := "http://" + r.servers[i].address(r.t)
	eventually(r.t, url+" is ready", func() bool { return statusOf(url+"/readyz") == http.StatusOK })
	r.clients[i] = grpcClient(r.t, url)
}

// kill kills one of the servers and starts it again.
func (r *replicas) kill() {
	i := rand.IntN(2)
	r.servers[i].kill()
	r.kills++
	r.start(i)
}

// next returns a client of one of the servers.
func (r *replicas) next() messagev1.MessageServiceClient { return r.clients[rand.IntN(2)] }

// pull returns a message, or nil if none came.
func (r *replicas) pull(wait time.Duration) *messagev1.PulledMessage {
	r.t.Helper()
	res, err := r.next().Pull(r.t.Context(), &messagev1.PullRequest{
		Queue: pullQueue, MaxMessages: 1, Wait: durationpb.New(wait), AckDeadline: durationpb.New(4 * time.Second),
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		r.t.Fatal(err)
	}
	return slices.Concat(res.GetMessages(), []*messagev1.PulledMessage{nil})[0]
}

// ack reports whether the receipt was good.
func (r *replicas) ack(m *messagev1.PulledMessage) bool {
	r.t.Helper()
	res, err := r.next().Ack(r.t.Context(), &messagev1.AckRequest{Queue: pullQueue, Receipts: []string{m.GetReceipt()}})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetResults()[0].GetError() == nil
}

// refused fails unless none of the receipts settles anything.
func (r *replicas) refused(stale []string) {
	r.t.Helper()
	if len(stale) == 0 {
		return
	}
	res, err := r.next().Ack(r.t.Context(), &messagev1.AckRequest{Queue: pullQueue, Receipts: stale})
	if err != nil {
		r.t.Fatal(err)
	}
	for i, result := range res.GetResults() {
		if result.GetError().GetCode() != "failed_precondition" {
			r.t.Errorf("the spent receipt %s has the result %v", stale[i], result)
		}
	}
}
