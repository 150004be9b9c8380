package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// ledger records the answers that publishers got.
type ledger struct {
	publishers sync.WaitGroup
	over       atomic.Bool // the publishers may end

	mu     sync.Mutex
	ids    int
	places map[place]bool       // where the answered messages are to take effect, by id
	keyed  []place              // the same of those with an idempotency key, by payload
	errors map[connect.Code]int // how many of each code came in place of an id
	wrong  []error              // errors that a server must not answer
}

func (l *ledger) answered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ids
}

// record records the answer to a request.
func (l *ledger) record(req *messagev1.PublishRequest, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places == nil {
		l.places = map[place]bool{}
	}
	l.ids++
	queues := []string{req.GetQueue()}
	if req.GetTopic() != "" {
		queues = []string{stormCopyA, stormCopyB}
	}
	for _, queue := range queues {
		l.places[place{id, queue}] = true
		if req.GetIdempotencyKey() != "" {
			l.keyed = append(l.keyed, place{req.GetMessage(), queue})
		}
	}
}

// fail records an error. A server may only answer that it is unavailable; clients report a lost connection in many forms.
func (l *ledger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.errors == nil {
		l.errors = map[connect.Code]int{}
	}
	code := connect.CodeOf(err)
	l.errors[code]++
	if connect.IsWireError(err) && code != connect.CodeUnavailable {
		l.wrong = append(l.wrong, err)
	}
}

// missing returns the places where no message has taken effect.
func (l *ledger) missing(seen map[place]int) (missing []place) {
	for place := range l.places {
		if seen[place] == 0 {
			missing = append(missing, place)
		}
	}
	return missing
}

// publisher publishes in one way, one call after the other.
type publisher struct {
	*storm
	speak variant
	http  *http.Client
}

func (s *storm) publisher(way string) *publisher {
	all := variants()
	speak := all[slices.IndexFunc(all, func(v variant) bool { return v.name == way })]
	return &publisher{s, speak, speak.http(s.t)}
}

// publishUntilItIsOver runs many publishers.
func (s *storm) publishUntilItIsOver() {
	ways := []string{"connect-json-http1", "grpc-proto-http2", "rest-http1"}
	for i := range publishers {
		p := s.publisher(ways[i%len(ways)])
		s.publishers.Go(func() { p.run(i) })
	}
}

// run publishes in every form until the storm is over. n identifies the publisher in its payloads.
func (p *publisher) run(n int) {
	forms := []func(payload string){p.plain, p.keyed, p.delayed, p.copied, p.keyedCopied, p.batch}
	for i := 0; !p.over.Load(); i++ {
		forms[i%len(forms)](fmt.Sprint(n, " ", i))
		<-time.After(10 * time.Millisecond) // The consumer can keep up with this rate.
	}
}

func (p *publisher) plain(payload string) {
	p.publish(&messagev1.PublishRequest{Queue: stormQueue, Payload: text(payload)})
}

func (p *publisher) delayed(payload string) {
	delay := rand.N(time.Second)
	p.publish(&messagev1.PublishRequest{Queue: stormQueue, Payload: text(payload),
		When: &messagev1.PublishRequest_Delay{Delay: durationpb.New(delay)}})
}

func (p *publisher) copied(payload string) {
	p.publish(&messagev1.PublishRequest{Topic: stormTopic, RoutingKey: "a.b", Payload: text(payload)})
}

func (p *publisher) keyed(payload string) {
	p.insist(&messagev1.PublishRequest{Queue: stormQueue, Payload: text(payload), IdempotencyKey: payload})
}

func (p *publisher) keyedCopied(payload string) {
	p.insist(&messagev1.PublishRequest{Topic: stormTopic, Payload: text(payload), IdempotencyKey: payload})
}

// insist repeats a publish until it is answered. The idempotency key makes that harmless.
func (p *publisher) insist(req *messagev1.PublishRequest) {
	for deadline := time.Now().Add(2 * patience); !p.publish(req) && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
	}
}

func (p *publisher) batch(payload string) {
	req := &messagev1.PublishBatchRequest{}
	for n := range 5 {
		req.Messages = append(req.Messages, &messagev1.PublishRequest{Queue: stormQueue, Payload: text(fmt.Sprint(payload, " ", n))})
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := p.client().PublishBatch(ctx, req)
	if err != nil {
		p.fail(err)
		return
	}
	for n, result := range res.GetResults() {
		if result.GetError() == nil {
			p.record(req.GetMessages()[n], result.GetId())
		}
	}
}

// publish reports whether the message was answered.
func (p *publisher) publish(req *messagev1.PublishRequest) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := p.client().Publish(ctx, req)
	if err != nil {
		p.fail(err)
		return false
	}
	p.record(req, res.GetId())
	return true
}

// client returns a client of the server that runs now.
func (p *publisher) client() messagev1.MessageServiceClient {
	return messagev1.NewMessageServiceClient(p.http, p.url.Load().(string), p.speak.options...)
}
