package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	messagev1 "plinth/api/plinth/message/v1"
)

const concurrency = 16

// kind is a kind of client.
type kind struct {
	name    string
	without string // the same kind that offers no gzip; empty for that one itself
	json    bool   // Connect JSON over HTTP/1.1 with keep-alive, else gRPC over HTTP/2
}

func kinds() []kind {
	return []kind{
		{name: "grpc"},
		{name: "grpc-gzip", without: "grpc"},
		{name: "json", json: true},
		{name: "json-gzip", without: "json", json: true},
	}
}

// dial makes a client with connections of its own, which done closes.
func (k kind) dial(address string) (client messagev1.MessageServiceClient, done func()) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(k.json)
	protocols.SetUnencryptedHTTP2(!k.json)
	transport := &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: concurrency, DisableCompression: true}
	var options []connect.ClientOption
	if k.json {
		options = append(options, connect.WithProtoJSON())
	} else {
		options = append(options, connect.WithGRPC())
	}
	if k.without == "" {
		options = append(options, connect.WithAcceptCompression("gzip", nil, nil)) // Clients offer it if not told otherwise.
	}
	client = messagev1.NewMessageServiceClient(&http.Client{Transport: transport}, "http://"+address, options...)
	return client, transport.CloseIdleConnections
}

// load makes calls, 16 at a time, and ends with the first that fails.
func load(ctx context.Context, client messagev1.MessageServiceClient, calls int) error {
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
				if reply.GetId() != stubID {
					return fmt.Errorf("the reply's id is %q", reply.GetId())
				}
			}
			return nil
		})
	}
	return group.Wait()
}
