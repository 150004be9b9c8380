package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	messagev1 "plinth/api/plinth/message/v1"
)

func attacks() []attack {
	return []attack{
		{name: "none"},
		{name: "half bodies", most: maxBesideHeap, callers: 200, run: halfBody},
		{name: "inflated batches", most: maxBesideHeap, callers: 32, run: inflatedBatch},
		{name: "filter", most: maxNeighbour, callers: 64, prepare: fillDeadLetters, run: filter},
		{name: "bindings", most: maxNeighbour, callers: 64, prepare: createQueues, run: replaceBindings},
		{name: "queues", most: maxNeighbour, callers: 64, run: createAndDelete},
	}
}

// halfBody sends 4 MiB less one byte, again and again.
func halfBody(ctx context.Context, p *pressure, _ int) {
	text := []byte(strings.Repeat("a", 64<<10))
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			return
		}
		end := context.AfterFunc(ctx, func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST /plinth.message.v1.MessageService/Publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
			"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", p.key, 4<<20)
		for left := 4<<20 - 1; err == nil && left > 0; {
			var n int
			n, err = conn.Write(text[:min(left, len(text))])
			left -= n
		}
		_, _ = io.Copy(io.Discard, conn) // It stays open until the server ends it.
		end()
		_ = conn.Close()
		<-time.After(time.Second)
	}
}

// inflatedBatch sends a batch of two million empty entries, which is 4 KB of gzip.
func inflatedBatch(ctx context.Context, p *pressure, _ int) {
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	_, _ = w.Write(bytes.Repeat([]byte{0x0a, 0x00}, 2<<20-8))
	_ = w.Close()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/plinth.message.v1.MessageService/PublishBatch", bytes.NewReader(body.Bytes()))
		if err != nil {
			return
		}
		req.Header = http.Header{"Content-Type": {"application/proto"}, "Content-Encoding": {"gzip"}, "Authorization": {"Bearer " + p.key}}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}
}

// filter looks for a reason that no dead letter has.
func filter(ctx context.Context, p *pressure, _ int) {
	for ctx.Err() == nil {
		_, _ = p.attacker.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{
			Queue: "letters", Filter: &messagev1.DeadLetterFilter{Reason: "no such reason"},
		})
	}
}

func createQueues(ctx context.Context, p *pressure) error {
	for i := range 8 {
		if _, err := p.attacker.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: fmt.Sprint("bound-", i)}); err != nil {
			return err
		}
	}
	return nil
}

// replaceBindings replaces all of the 100 bindings of a queue, which other callers do too.
func replaceBindings(ctx context.Context, p *pressure, caller int) {
	for round := 0; ctx.Err() == nil; round++ {
		bindings := make([]*messagev1.Binding, 100)
		for i := range bindings {
			bindings[i] = &messagev1.Binding{Topic: "topic", Pattern: fmt.Sprintf("a%d.%d.*", round%2, i)}
		}
		_, _ = p.attacker.UpdateQueue(ctx, &messagev1.UpdateQueueRequest{Name: fmt.Sprint("bound-", caller%8), Bindings: bindings})
	}
}

// createAndDelete creates a queue and deletes it.
func createAndDelete(ctx context.Context, p *pressure, caller int) {
	for round := 0; ctx.Err() == nil; round++ {
		name := fmt.Sprintf("short-%d-%d", caller, round)
		_, _ = p.attacker.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: name})
		_, _ = p.attacker.DeleteQueue(context.WithoutCancel(ctx), &messagev1.DeleteQueueRequest{Name: name})
	}
}
