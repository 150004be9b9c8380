package rpc_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	lockv1 "plinth/api/plinth/lock/v1"
	"plinth/internal/rpc"
)

// waiting is a service whose Acquire may wait.
type waiting struct {
	lockv1.UnimplementedLockServiceHandler
	acquire func(ctx context.Context) error
}

func (w waiting) Acquire(ctx context.Context, _ *lockv1.AcquireRequest) (*lockv1.AcquireResponse, error) {
	return &lockv1.AcquireResponse{}, w.acquire(ctx)
}

func (w waiting) Get(context.Context, *lockv1.GetRequest) (*lockv1.Lock, error) {
	return &lockv1.Lock{}, nil
}

func (w waiting) mount(options ...connect.HandlerOption) (string, http.Handler) {
	return lockv1.NewLockServiceHandler(w, options...)
}

func acquiring(wait time.Duration) *lockv1.AcquireRequest {
	return &lockv1.AcquireRequest{Name: "a", Owner: "one", Wait: durationpb.New(wait)}
}

// A call that may wait has that much more time, over REST as well.
func TestWaitingCallsHaveTime(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	w := waiting{acquire: func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		return nil
	}}
	f := serving(t, rpc.Config{Timeout: 5 * time.Second}, []rpc.Service{w.mount})
	for name, call := range map[string]func() error{
		"connect": func() error {
			_, err := lockv1.NewLockServiceClient(f.http, f.url).Acquire(t.Context(), acquiring(time.Minute))
			return err
		},
		"rest": func() error {
			res, err := f.http.Post(f.url+"/api/v1/locks/a:acquire", "application/json", strings.NewReader(`{"owner":"one","wait":"60s"}`))
			if err == nil {
				_ = res.Body.Close()
			}
			return err
		},
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := <-left; d < 60*time.Second || d > 65*time.Second {
			t.Errorf("%s has %v", name, d)
		}
	}
}

// Calls that wait take the places of streams, and none of those of unary calls. They end when the process is to stop.
func TestWaitingCallsAreStreams(t *testing.T) {
	t.Parallel()
	waits := make(chan struct{}, 2)
	w := waiting{acquire: func(ctx context.Context) error {
		waits <- struct{}{}
		select {
		case <-rpc.Finishing(ctx).Done():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	draining, drain := context.WithCancel(t.Context())
	f := serving(t, rpc.Config{Timeout: time.Minute, Draining: draining, Limits: rpc.Limits{Calls: 1, Streams: 2}}, []rpc.Service{w.mount})
	client := lockv1.NewLockServiceClient(f.http, f.url)
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := client.Acquire(t.Context(), acquiring(time.Minute))
			done <- err
		}()
		<-waits
	}
	if _, err := client.Acquire(t.Context(), acquiring(time.Minute)); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	for range 3 {
		if _, err := client.Get(t.Context(), &lockv1.GetRequest{Name: "a"}); err != nil {
			t.Errorf("a call that does not wait: %v", err)
		}
	}
	drain()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A call that waits ends when its credential is revoked.
func TestWaitingCallIsRevoked(t *testing.T) {
	t.Parallel()
	keys, waits := newKeyring(), make(chan struct{}, 1)
	w := waiting{acquire: func(ctx context.Context) error {
		waits <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	f := serving(t, rpc.Config{Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor}, []rpc.Service{w.mount})
	done := make(chan error, 1)
	go func() {
		_, err := lockv1.NewLockServiceClient(f.http, f.url, bearer("admin")).Acquire(t.Context(), acquiring(time.Minute))
		done <- err
	}()
	<-waits
	keys.revoke("admin")
	if err := <-done; connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("%v", err)
	}
}
