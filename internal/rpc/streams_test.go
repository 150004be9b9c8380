package rpc_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/auth"
	"plinth/internal/rpc"
)

const (
	healthWatch = "/grpc.health.v1.Health/Watch"
	reflection  = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
)

// unspoken is a handler that waits for the first message.
func unspoken(_ context.Context, stream *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
	for {
		if _, err := stream.Receive(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// servePublic serves a stack with the public services beside the stub.
func servePublic(t *testing.T, s stub, cfg rpc.Config) string {
	t.Helper()
	cfg.Log, cfg.Public = zap.NewNop(), []string{healthWatch, reflection}
	stack := rpc.New(cfg)
	handler, err := stack.Handler([]rpc.Service{
		mountAll(s),
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpchealth.NewHandler(watcher{grpchealth.NewStaticChecker("known")}, o...)
		},
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpcreflect.NewHandlerV1(grpcreflect.NewStaticReflector("known"), o...)
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return serveStack(t, stack, handler)
}

// serveStack serves the handler of a stack, over HTTP/1.1 and HTTP/2.
func serveStack(t *testing.T, stack *rpc.Stack, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config = rpc.NewServer(server.Config.Handler, zap.NewNop())
	server.Config.ConnContext = stack.ConnContext
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// watcher tells of health that never changes.
type watcher struct{ *grpchealth.StaticChecker }

func (watcher) Watch(context.Context, *grpchealth.CheckRequest, func()) (func(), error) {
	return func() {}, nil
}

// watchHealth opens a stream without a credential, and returns its error once it is open or refused.
func watchHealth(t *testing.T, client *http.Client, url string) error {
	opened := make(chan error, 1)
	go func() {
		for event := range grpchealth.NewClient(client, url, connect.WithGRPC()).Watch(t.Context(), &grpchealth.CheckRequest{}) {
			select {
			case opened <- event.Err:
			default:
			}
		}
	}()
	select {
	case err := <-opened:
		return err
	case <-time.After(10 * time.Second):
		return errors.New("nothing came")
	}
}

// Whoever has no key takes no place of those who have one, and one address not all of the places of other addresses.
func TestPublicStreams(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	url := servePublic(t, stub{consume: untilTheEnd}, rpc.Config{
		Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limits: rpc.Limits{Streams: 8, PublicStreams: 8},
	})
	client := h2c()
	open := 0
	for range 20 {
		err := watchHealth(t, client, url)
		if err == nil {
			open++
		} else if connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Fatal(err)
		}
	}
	if open != 6 {
		t.Errorf("%d public streams of one address are open, want 6 of 8", open)
	}
	consume := func(options ...connect.ClientOption) error {
		stream, err := messagev1.NewMessageServiceClient(client, url, append(options, connect.WithGRPC())...).Consume(t.Context())
		if err != nil {
			return err
		}
		_ = stream.Send(nil)
		_, err = stream.Receive()
		return err
	}
	for i := range 8 {
		err := consume(bearer("consumer"))
		if want := i < 6; (err == nil) != want {
			t.Errorf("stream %d of a tenant got %v", i, err)
		}
		if err != nil && errorDetail[*errdetails.ErrorInfo](err).GetReason() != "TOO_MANY_STREAMS" {
			t.Error(err)
		}
	}
	if err := consume(bearer("admin", "X-Tenant", "other")); err != nil {
		t.Errorf("a stream of another tenant got %v", err)
	}
}

// spoken is an empty ack, as a client sends it by gRPC.
var spoken = func() string {
	message, _ := proto.Marshal(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{}}})
	return string(append([]byte{0, 0, 0, 0, byte(len(message))}, message...))
}()

// A stream on which nothing is said ends: after a while, when it is too old, when the server stops, and when its key is
// revoked. So does one whose message never becomes complete.
func TestSilentStreams(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body   string // what the client sends
		age    time.Duration
		act    func(keys *keyring, drain context.CancelFunc)
		within time.Duration
		want   connect.Code
	}{
		"without a first message": {want: connect.CodeDeadlineExceeded, within: 15 * time.Second},
		"half a first message":    {body: "\x00\x00\x00\x01\x00half", want: connect.CodeDeadlineExceeded, within: 15 * time.Second},
		"half a message":          {body: spoken + "\x00\x00\x00\x01\x00half", want: connect.CodeDeadlineExceeded, within: 8 * time.Second},
		"half a prefix":           {body: spoken + "\x00", want: connect.CodeDeadlineExceeded, within: 8 * time.Second},
		"too old":                 {age: 500 * time.Millisecond, want: connect.CodeUnavailable, within: 5 * time.Second},
		"spoken and too old":      {body: spoken, age: 500 * time.Millisecond, want: connect.CodeUnavailable, within: 8 * time.Second},
		"drained": {act: func(_ *keyring, drain context.CancelFunc) { drain() }, want: connect.CodeUnavailable,
			within: 5 * time.Second},
		"revoked": {act: func(keys *keyring, _ context.CancelFunc) { keys.revoke("consumer") }, want: connect.CodeUnauthenticated,
			within: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys := newKeyring()
			draining, drain := context.WithCancel(t.Context())
			defer drain()
			began, ended := make(chan struct{}), make(chan error, 1)
			url := servePublic(t, stub{consume: func(ctx context.Context, s *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
				close(began)
				err := unspoken(ctx, s)
				ended <- err
				return err
			}}, rpc.Config{
				Timeout: 3 * time.Second, Authenticate: keys.authenticate, ActFor: keys.actFor, Draining: draining, MaxAge: test.age,
				Limits: rpc.Limits{Memory: 32 << 20},
			})
			status := openRaw(t, url+"/plinth.message.v1.MessageService/Consume", "consumer", test.body)
			<-began
			if test.act != nil {
				test.act(keys, drain)
			}
			select {
			case err := <-ended:
				if got := <-status; got != test.want {
					t.Errorf("the client sees %v, want %v; the handler saw %v", got, test.want, err)
				}
			case <-time.After(test.within):
				t.Errorf("the stream is still open after %v", test.within)
			}
		})
	}
}

// A stream whose handler does nothing but send ends as well, whether its client reads or not.
func TestStreamsThatSend(t *testing.T) {
	t.Parallel()
	random := make([]byte, 256<<10) // It is not compressed to nothing.
	_, _ = rand.Read(random)
	large := &messagev1.ConsumeResponse{Messages: []*messagev1.Message{{Payload: random}}}
	tooOld := func(*keyring, context.CancelFunc) {}
	drained := func(_ *keyring, drain context.CancelFunc) { drain() }
	revoked := func(keys *keyring, _ context.CancelFunc) { keys.revoke("consumer") }
	for name, test := range map[string]struct {
		age   time.Duration
		act   func(keys *keyring, drain context.CancelFunc)
		reads bool
	}{
		"too old": {2 * time.Second, tooOld, false}, "drained": {0, drained, false}, "revoked": {0, revoked, false},
		"too old, read": {2 * time.Second, tooOld, true}, "drained, read": {0, drained, true}, "revoked, read": {0, revoked, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys := newKeyring()
			draining, drain := context.WithCancel(t.Context())
			defer drain()
			var sent atomic.Int64
			ended := make(chan error, 1)
			url := servePublic(t, stub{consume: func(_ context.Context, s *connect.BidiStream[messagev1.ConsumeRequest, messagev1.ConsumeResponse]) error {
				_, err := s.Receive()
				for err == nil {
					if err = s.Send(large); err == nil {
						sent.Add(1)
						<-time.After(time.Millisecond)
					}
				}
				ended <- err
				return err
			}}, rpc.Config{Timeout: time.Second, Authenticate: keys.authenticate, ActFor: keys.actFor, Draining: draining, MaxAge: test.age})
			stream, err := messagev1.NewMessageServiceClient(h2c(), url, bearer("consumer"), connect.WithGRPC()).Consume(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Ack{Ack: &messagev1.Ack{}}}); err != nil {
				t.Fatal(err)
			}
			if test.reads {
				go func() {
					for err == nil {
						_, err = stream.Receive()
					}
				}()
			}
			for before := int64(-1); sent.Load() == 0 || !test.reads && sent.Load() != before; <-time.After(200 * time.Millisecond) {
				before = sent.Load()
			}
			test.act(keys, drain)
			select {
			case <-ended:
			case <-time.After(15 * time.Second):
				t.Errorf("the stream is still open, after %d messages", sent.Load())
			}
		})
	}
}

// openRaw opens a stream by gRPC that sends a text and then nothing more. The channel has its status once it has ended.
func openRaw(t *testing.T, url, token, text string) <-chan connect.Code {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	status := make(chan connect.Code, 1)
	go func() { _, _ = io.WriteString(w, text) }()
	go func() {
		res, err := h2c().Do(req)
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		code, err := strconv.Atoi(res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status"))
		if err != nil {
			t.Error(err)
		}
		status <- connect.Code(code)
	}()
	return status
}

// Streams of public methods end with their age and with the server, though their handlers know of neither.
func TestPublicStreamsEnd(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(t *testing.T, url string) (ended <-chan error){
		"health": func(t *testing.T, url string) <-chan error {
			ended, first := make(chan error, 1), make(chan struct{}, 1)
			go func() {
				var err error
				for event := range grpchealth.NewClient(h2c(), url, connect.WithGRPC()).Watch(t.Context(), &grpchealth.CheckRequest{}) {
					err = event.Err
					first <- struct{}{}
				}
				ended <- err
			}()
			<-first
			return ended
		},
		"reflection": func(t *testing.T, url string) <-chan error {
			stream := grpcreflect.NewClient(h2c(), url, connect.WithGRPC()).NewStream(t.Context())
			if _, err := stream.ListServices(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				var err error
				for err == nil {
					_, err = stream.ListServices()
					<-time.After(10 * time.Millisecond)
				}
				ended <- nil
			}()
			return ended
		},
	} {
		for how, cfg := range map[string]rpc.Config{"age": {MaxAge: 500 * time.Millisecond}, "drain": {}} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				draining, drain := context.WithCancel(t.Context())
				defer drain()
				cfg.Timeout, cfg.Draining = time.Minute, draining
				url := servePublic(t, stub{}, cfg)
				ended := begin(t, url)
				if how == "drain" {
					drain()
				}
				select {
				case err := <-ended:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(10 * time.Second):
					t.Error("it is still open")
				}
			})
		}
	}
}

// Calls of one tenant do not take the places of another's.
func TestSharesOfCalls(t *testing.T) {
	t.Parallel()
	keys := newKeyring()
	release, working := make(chan struct{}), make(chan struct{}, 100)
	url := servePublic(t, stub{publish: func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		if auth.TenantOf(ctx) == "acme" {
			working <- struct{}{}
			<-release
		}
		return &messagev1.PublishResponse{}, nil
	}}, rpc.Config{Timeout: time.Minute, Authenticate: keys.authenticate, ActFor: keys.actFor, Limits: rpc.Limits{Calls: 8}})
	client := messagev1.NewMessageServiceClient(h2c(), url, bearer("publisher"))
	outcomes := make(chan error, 40)
	for range 40 {
		go func() {
			_, err := client.Publish(t.Context(), publishing)
			outcomes <- err
		}()
	}
	for range 6 {
		<-working
	}
	other := messagev1.NewMessageServiceClient(h2c(), url, bearer("admin", "X-Tenant", "other"))
	for range 20 {
		if _, err := other.Publish(t.Context(), publishing); err != nil {
			t.Fatalf("another tenant got %v", err)
		}
	}
	for range 34 {
		if err := <-outcomes; errorDetail[*errdetails.ErrorInfo](err).GetReason() != "OVERLOADED" {
			t.Errorf("a call beyond the tenant's share got %v", err)
		}
	}
	close(release)
	for range 6 {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
}
