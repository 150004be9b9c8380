package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/auth"
	"plinth/internal/ratelimit"
	"plinth/internal/rpc"
)

func serveAlone(t *testing.T, handler http.Handler) (url string) {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// newLimiter returns a limiter that counts in this process, because a Redis that is late for once would have it count anew.
func newLimiter(t *testing.T) *ratelimit.Limiter {
	client := redis.NewClient(&redis.Options{MaxRetries: -1, Dialer: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("there is no Redis")
	}})
	t.Cleanup(func() { _ = client.Close() })
	return ratelimit.New(client, zap.NewNop(), time.Now)
}

var publishing = &messagev1.PublishRequest{Queue: "q", Payload: &messagev1.PublishRequest_Message{Message: "hello"}}

// Each kind of limit refuses calls beyond it, and says when to try again, over every protocol.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	rate := auth.Rate{Count: 2, Per: time.Hour}
	for kind, limits := range map[string]rpc.Limits{
		"tenant": {Tenant: rate}, "key": {Key: rate}, "method": {Methods: map[string]auth.Rate{procedure: rate}},
	} {
		for protocol, options := range map[string][]connect.ClientOption{
			"connect": nil, "grpc": {connect.WithGRPC()}, "grpcweb": {connect.WithGRPCWeb()},
		} {
			t.Run(kind+" "+protocol, func(t *testing.T) {
				t.Parallel()
				keys := newKeyring()
				f := configured(t, stub{publish: whose}, rpc.Config{
					Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limits: limits, Limiter: newLimiter(t),
				})
				publish := func(token string) error {
					_, err := messagev1.NewMessageServiceClient(h2c(), f.url, append(options, bearer(token))...).Publish(t.Context(), publishing)
					return err
				}
				for range 2 {
					if err := publish("publisher"); err != nil {
						t.Fatal(err)
					}
				}
				err := publish("publisher")
				if connect.CodeOf(err) != connect.CodeResourceExhausted || errorDetail[*errdetails.ErrorInfo](err).GetReason() != "RATE_LIMITED" ||
					!strings.Contains(err.Error(), kind) {
					t.Errorf("the third call got %v", err)
				}
				if after := errorDetail[*errdetails.RetryInfo](err).GetRetryDelay().AsDuration(); after < 25*time.Minute || after > 30*time.Minute {
					t.Errorf("it is to come back in %v", after)
				}
				// Another key of the tenant has not used up its own limit.
				if err := publish("consumer"); (err == nil) != (kind == "key") {
					t.Errorf("another key of the tenant got %v", err)
				}
			})
		}
	}
}

// Each tenant has its own share of a method's rate, and the rate of a tenant or key overrides the general one.
func TestWhoseRate(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	own := *keys.tokens["publisher"]
	own.ID, own.Rate = "own", auth.Rate{Count: 2, Per: time.Hour}
	keys.tokens["own"] = &own
	f := configured(t, stub{publish: whose}, rpc.Config{
		Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limiter: newLimiter(t),
		Limits: rpc.Limits{Key: auth.Rate{Count: 5, Per: time.Hour}, Methods: map[string]auth.Rate{procedure: {Count: 4, Per: time.Hour}}},
	})
	allowed := func(options ...connect.ClientOption) (n int) {
		client := messagev1.NewMessageServiceClient(h2c(), f.url, options...)
		for range 10 {
			if _, err := client.Publish(t.Context(), publishing); err == nil {
				n++
			}
		}
		return n
	}
	if n := allowed(bearer("own")); n != 2 {
		t.Errorf("%d calls of a key that has 2", n)
	}
	if n := allowed(bearer("publisher")); n != 2 {
		t.Errorf("%d calls of a tenant that has 2 of 4 left for the method", n)
	}
	if n := allowed(bearer("admin", "X-Tenant", "other")); n != 4 {
		t.Errorf("%d calls of another tenant, which has 4", n)
	}
	if n := allowed(bearer("admin", "X-Tenant", "third")); n != 1 {
		t.Errorf("%d calls of a third tenant with a key that has 1 of 5 left, for all tenants together", n)
	}
}

// A client that sends wrong credentials locks out nobody: behind a load balancer, all callers have the same address.
func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	f := configured(t, stub{publish: whose}, rpc.Config{
		Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limiter: newLimiter(t),
		Limits: rpc.Limits{Tenant: auth.Rate{Count: 2, Per: time.Hour}, Key: auth.Rate{Count: 2, Per: time.Hour}},
	})
	for range 200 {
		if status := f.with(t, "POST", route, "Bearer wrong", good).StatusCode; status != http.StatusUnauthorized {
			t.Fatalf("wrong credentials got %d", status)
		}
	}
	if status := f.with(t, "POST", route, "Bearer publisher", good).StatusCode; status != http.StatusOK {
		t.Errorf("right credentials got %d", status)
	}
}

func TestRateLimitHeaders(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	f := configured(t, stub{publish: whose}, rpc.Config{
		Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limiter: newLimiter(t),
		Limits: rpc.Limits{Tenant: auth.Rate{Count: 1000, Per: time.Hour}, Key: auth.Rate{Count: 2, Per: time.Minute}},
	})
	for i, want := range []struct{ status, left, until, wait int }{{200, 1, 30, 0}, {200, 0, 60, 0}, {429, 0, 60, 30}} {
		res := f.with(t, "POST", route, "Bearer publisher", good)
		var left, until int
		_, err := fmt.Sscanf(res.Header.Get("RateLimit"), `"key";r=%d;t=%d`, &left, &until)
		wait, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		const slow = 20 // seconds that may have passed since the first call
		if err != nil || res.StatusCode != want.status || res.Header.Get("RateLimit-Policy") != `"key";q=2;w=60` || left != want.left ||
			until > want.until || until < want.until-slow || wait > want.wait || wait < want.wait-slow {
			t.Errorf("call %d got %d %v, want %v", i+1, res.StatusCode, res.Header, want)
		}
	}
}

// Calls beyond the limit are shed at once or after a moment, and the others are served.
func TestOverload(t *testing.T) {
	t.Parallel()
	release, working := make(chan struct{}), make(chan struct{}, 100)
	f := configured(t, stub{publish: func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		working <- struct{}{}
		<-release
		return &messagev1.PublishResponse{}, nil
	}}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Calls: 4}})
	client := messagev1.NewMessageServiceClient(h2c(), f.url)
	outcomes := make(chan error)
	for range 40 {
		go func() {
			_, err := client.Publish(t.Context(), publishing)
			outcomes <- err
		}()
	}
	for range 4 {
		<-working
	}
	for range 36 {
		err := <-outcomes
		if connect.CodeOf(err) != connect.CodeResourceExhausted || errorDetail[*errdetails.ErrorInfo](err).GetReason() != "OVERLOADED" ||
			errorDetail[*errdetails.RetryInfo](err) == nil {
			t.Fatalf("got %v", err)
		}
	}
	close(release)
	for range 4 {
		if err := <-outcomes; err != nil {
			t.Errorf("what was worked at got %v", err)
		}
	}
}

func TestStreamsAreCounted(t *testing.T) {
	t.Parallel()
	f := configured(t, stub{consume: untilTheEnd}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Streams: 2}})
	client := messagev1.NewMessageServiceClient(h2c(), f.url, connect.WithGRPC())
	open := func() (end func(), err error) {
		stream, err := client.Consume(t.Context())
		if err != nil {
			return nil, err
		}
		_ = stream.Send(nil)
		_, err = stream.Receive()
		end = sync.OnceFunc(func() { _ = stream.CloseRequest(); _ = stream.CloseResponse() })
		t.Cleanup(end)
		return end, err
	}
	first, err := open()
	if err == nil {
		_, err = open()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("the third stream got %v", err)
	}
	first()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) {
		if _, err := open(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a stream that ended is not given away")
		}
	}
}

// An old connection ends in good order with the next call; an old stream is asked to finish.
func TestOldConnectionsAndStreamsEnd(t *testing.T) {
	t.Parallel()
	const age = time.Second
	f := configured(t, stub{publish: answer, consume: untilTheEnd}, rpc.Config{Timeout: time.Minute, MaxAge: age})
	for name, client := range map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}}, "HTTP/2": h2c()} {
		call := func() (reused bool) {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.url+route, strings.NewReader(good))
			req.Header.Set("Content-Type", "application/json")
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			defer func() { _ = res.Body.Close() }()
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return reused
		}
		for i, want := range []bool{false, true, true, false} {
			if i == 2 {
				<-time.After(age)
			}
			if got := call(); got != want {
				t.Errorf("%s: call %d came over a connection that was used before: %v", name, i+1, got)
			}
		}
	}
	stream, err := messagev1.NewMessageServiceClient(h2c(), f.url, connect.WithGRPC()).Consume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(nil)
	for err == nil {
		_, err = stream.Receive()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}

// Bodies that are still arriving take no place among the calls at a time.
func TestSlowBodiesTakeNoPlace(t *testing.T) {
	t.Parallel()
	f := configured(t, stub{publish: answer}, rpc.Config{Timeout: time.Minute, Limits: rpc.Limits{Calls: 4, Memory: 64 << 20}})
	statuses := make(chan int, 16)
	for range 16 {
		half{path: procedure, contentType: "application/json"}.send(t, f.url, "", 100, statuses)
	}
	for range 8 {
		if res, b := f.do(t, "POST", route, "application/json", good); res.StatusCode != 200 {
			t.Errorf("got %d %v", res.StatusCode, b)
		}
	}
	if len(statuses) > 0 {
		t.Errorf("a body that is not complete got %d", <-statuses)
	}
}
