package cost

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	messagev1 "plinth/api/plinth/message/v1"
)

const concurrency = 16

// Kind is a kind of client.
type Kind struct {
	Name    string
	Without string // the name of the same kind without gzip; empty for a kind without gzip
	json    bool   // whether it speaks Connect JSON over HTTP/1.1 with keep-alive, or else gRPC over HTTP/2
}

// Kinds returns all kinds of clients.
func Kinds() []Kind {
	return []Kind{
		{Name: "grpc"},
		{Name: "grpc-gzip", Without: "grpc"},
		{Name: "json", json: true},
		{Name: "json-gzip", Without: "json", json: true},
	}
}

// Dial returns a client with connections of its own, which done closes.
func (k Kind) Dial(address string, options ...connect.ClientOption) (client messagev1.MessageServiceClient, done func()) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(k.json)
	protocols.SetUnencryptedHTTP2(!k.json)
	transport := &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: concurrency, DisableCompression: true}
	if k.json {
		options = append(options, connect.WithProtoJSON())
	} else {
		options = append(options, connect.WithGRPC())
	}
	if k.Without == "" {
		options = append(options, connect.WithAcceptCompression("gzip", nil, nil)) // Clients offer it unless configured otherwise.
	}
	client = messagev1.NewMessageServiceClient(&http.Client{Transport: transport}, "http://"+address, options...)
	return client, transport.CloseIdleConnections
}

// Load makes calls, 16 at a time, and returns the error of the first one that fails.
func Load(ctx context.Context, client messagev1.MessageServiceClient, calls int) error {
	group, ctx := errgroup.WithContext(ctx)
	var begun atomic.Int64
	for range concurrency {
		group.Go(func() error {
			for begun.Add(1) <= int64(calls) {
				reply, err := client.Publish(ctx, &messagev1.PublishRequest{
					Queue: "task_queue", Payload: &messagev1.PublishRequest_Message{Message: "hello"},
				})
				if err != nil {
					return err
				}
				if reply.GetId() != StubID {
					return fmt.Errorf("the reply's id is %q", reply.GetId())
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// Measure returns the CPU seconds that a server spends on 100,000 calls of a kind of client, averaged over
// the given number of calls.
func Measure(ctx context.Context, p *Process, k Kind, calls int, options ...connect.ClientOption) (float64, error) {
	client, done := k.Dial(p.Address, options...)
	defer done()
	if err := Load(ctx, client, calls/10); err != nil { // Connections, pools and the heap have to grow first.
		return 0, err
	}
	before, err := p.CPU()
	if err != nil {
		return 0, err
	}
	if err := Load(ctx, client, calls); err != nil {
		return 0, err
	}
	after, err := p.CPU()
	return (after - before).Seconds() * 100_000 / float64(calls), err
}

// Spread returns costs as text: median (least..most).
func Spread(costs []float64) string {
	return fmt.Sprintf("%.2f (%.2f..%.2f)", Median(costs), slices.Min(costs), slices.Max(costs))
}

// Median returns the middle value of costs, or the mean of the two in the middle.
func Median(costs []float64) float64 {
	sorted := slices.Sorted(slices.Values(costs))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
