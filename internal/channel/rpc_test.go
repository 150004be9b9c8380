package channel_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	channelv1 "plinth/api/plinth/channel/v1"
	"plinth/internal/auth"
	"plinth/internal/channel"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
	"plinth/internal/rpc"
)

// edge is a service behind the production stack, where the only key is "key", of the tenant acme.
type edge struct {
	url     string
	h2c     *http.Client
	revoked atomic.Bool
	drain   context.CancelFunc
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	db, err := pg.Open(t.Context(), pg.Config{URL: pgtest.New(t), MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	client, err := kv.Open("redis://" + miniredis.RunT(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	e := &edge{}
	holder := func(_ context.Context, id, tenant string) (*auth.Principal, error) {
		if tenant != "acme" || e.revoked.Load() {
			return nil, errs.New(errs.Unauthenticated, "the key was revoked")
		}
		return &auth.Principal{ID: id, Tenant: auth.Tenant{Name: tenant}, Scopes: []string{auth.All}}, nil
	}
	s := channel.New(channel.Config{Redis: client, DB: db, Holder: holder, Limits: limits, Log: zap.NewNop()})
	run(t, s)
	draining, drain := context.WithCancel(context.Background())
	e.drain = drain
	t.Cleanup(drain)
	stack := rpc.New(rpc.Config{
		Log: zap.NewNop(), Timeout: time.Minute, Draining: draining, AuthenticateURL: s.Authenticate,
		Authenticate: func(ctx context.Context, token string) (*auth.Principal, error) {
			if token != "key" {
				return nil, errs.New(errs.Unauthenticated, "no such key")
			}
			return holder(ctx, "key:1", "acme")
		},
	})
	handler, err := stack.Handler([]rpc.Service{func(o ...connect.HandlerOption) (string, http.Handler) {
		return channelv1.NewChannelServiceHandler(channel.NewRPC(s), o...)
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config = rpc.NewServer(handler, zap.NewNop())
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	e.url, e.h2c = server.URL, &http.Client{Transport: withKey{&http.Transport{Protocols: protocols}}}
	return e
}

type withKey struct{ http.RoundTripper }

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer key")
	return k.RoundTripper.RoundTrip(r)
}

func (e *edge) publish(t *testing.T, text string) string {
	t.Helper()
	res, err := channelv1.NewChannelServiceClient(e.h2c, e.url).Publish(t.Context(), &channelv1.PublishRequest{
		Channel: "c", Payload: &channelv1.PublishRequest_Text{Text: text}, Attributes: map[string]string{"a": "b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetId()
}

// sse is a stream of Server-Sent Events.
type sse struct {
	t     *testing.T
	res   *http.Response
	lines *bufio.Scanner
}

// stream opens a stream without a key, unless the path has none either.
func (e *edge) stream(t *testing.T, path, lastID string, key bool) *sse {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+path, nil)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	if key {
		req.Header.Set("Authorization", "Bearer key")
	}
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return &sse{t, res, bufio.NewScanner(res.Body)}
}

// event is one of the stream, in the form of its JSON.
type event struct {
	kind, id   string
	Subscribed struct{ LastID string }
	Message    struct{ ID, Text, PreviousID string }
	Code       string
}

func (s *sse) next() (e event) {
	s.t.Helper()
	for s.lines.Scan() {
		field, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.kind = value
		case "data":
			to := any(&e)
			if e.kind == "error" {
				to = &struct{ Code *string }{&e.Code}
			}
			if err := json.Unmarshal([]byte(value), to); err != nil {
				s.t.Fatal(err)
			}
			return e
		}
	}
	s.t.Fatalf("the stream ended: %v", s.lines.Err())
	return e
}

func (s *sse) messages(texts ...string) (last event) {
	s.t.Helper()
	for _, text := range texts {
		if last = s.next(); last.Message.Text != text || last.Message.ID != last.id {
			s.t.Fatalf("got %+v, want %s", last, text)
		}
	}
	return last
}

// Each protocol has the events, and refuses what is not valid.
func TestRPC(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for name, options := range map[string][]connect.ClientOption{
		"Connect": nil, "Connect JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			c := channelv1.NewChannelServiceClient(e.h2c, e.url, options...)
			first := e.publish(t, "first")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			stream, err := c.Subscribe(ctx, &channelv1.SubscribeRequest{Channels: []string{"c"}, AfterId: first})
			if err != nil {
				t.Fatal(err)
			}
			second := e.publish(t, "second")
			if !stream.Receive() || stream.Msg().GetSubscribed().GetLastId() == "" || stream.Msg().GetId() != first {
				t.Fatalf("%v %v", stream.Msg(), stream.Err())
			}
			if !stream.Receive() {
				t.Fatal(stream.Err())
			}
			m := stream.Msg().GetMessage()
			if m.GetText() != "second" || m.GetId() != second || m.GetPreviousId() != first || m.GetAttributes()["a"] != "b" || m.GetPublishTime() == nil {
				t.Errorf("%v", m)
			}
			if info, err := c.GetChannel(ctx, &channelv1.GetChannelRequest{Channel: "c"}); err != nil || info.GetLastId() != second {
				t.Errorf("%v %v", info, err)
			}
			for what, req := range map[string]*channelv1.SubscribeRequest{
				"nothing": {}, "a name of 201 bytes": {Channels: []string{strings.Repeat("x", 201)}}, "an id of others": {Channels: []string{"c"}, AfterId: "0198c0de-0000-4000-8000-000000000000"},
				"a pattern as a name": {Channels: []string{"c.*"}}, "101 channels": {Channels: strings.Split(strings.Repeat("c,", 100)+"c", ",")},
				"after another one": {Channels: []string{"c"}, After: map[string]string{"d": first}},
			} {
				stream, err := c.Subscribe(ctx, req)
				if err == nil {
					for stream.Receive() {
					}
					err = stream.Err()
				}
				if connect.CodeOf(err) != connect.CodeInvalidArgument {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// A browser's stream: headers, events, resumption, and the credential in its URL.
func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	first := e.publish(t, "first")
	s := e.stream(t, "/api/v1/channels:subscribe?channel=c", "", true)
	h := s.res.Header
	if h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" || h.Get("X-Accel-Buffering") != "no" || h.Get("Content-Encoding") != "" {
		t.Errorf("%v", h)
	}
	if got := s.next(); got.Subscribed.LastID != first || got.id != first {
		t.Errorf("%+v", got)
	}
	e.publish(t, "second")
	last := s.messages("second")
	_ = s.res.Body.Close()
	var texts []string
	for range 50 {
		e.publish(t, "more")
		texts = append(texts, "more")
	}
	url, err := channelv1.NewChannelServiceClient(e.h2c, e.url).CreateSubscribeUrl(t.Context(), &channelv1.CreateSubscribeUrlRequest{Channels: []string{"c"}, Patterns: []string{"c.#"}})
	if err != nil {
		t.Fatal(err)
	}
	s = e.stream(t, url.GetUrl(), last.id, false)
	if got := s.next(); got.id != last.id || got.Subscribed.LastID == last.id {
		t.Errorf("%+v", got)
	}
	s.messages(texts...)
	e.publish(t, "live")
	s.messages("live")
	for path, status := range map[string]int{
		url.GetUrl() + "&channel=other":                               403,
		url.GetUrl() + "&pattern=%23":                                 403,
		url.GetUrl() + "x":                                            401,
		strings.Replace(url.GetUrl(), "token=acme", "token=other", 1): 401,
		"/api/v1/channels:subscribe?channel=c&token=acme.AAAA":        401,
		"/api/v1/channels:subscribe?channel=c&token=key":              401,
		"/api/v1/channels:subscribe?channel=c":                        401,
		"/api/v1/channels/c?token=" + url.GetUrl()[strings.Index(url.GetUrl(), "token=")+len("token="):]: 401,
	} {
		if res := e.stream(t, path, "", false).res; res.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, status)
		}
	}
	e.revoked.Store(true)
	if got := s.next(); got.kind != "error" || got.Code != "unauthenticated" {
		t.Errorf("after the key was revoked: %+v", got)
	}
	if res := e.stream(t, url.GetUrl(), last.id, false).res; res.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the key was revoked: %d", res.StatusCode)
	}
}

// A URL works until it expires, and so does its stream.
func TestURLExpires(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	url, err := channelv1.NewChannelServiceClient(e.h2c, e.url).CreateSubscribeUrl(t.Context(), &channelv1.CreateSubscribeUrlRequest{
		Channels: []string{"c"}, ExpiresIn: durationpb.New(2 * time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := e.stream(t, url.GetUrl(), "", false)
	s.next()
	if got := s.next(); got.kind != "error" || got.Code != "unauthenticated" {
		t.Errorf("%+v", got)
	}
	if res := e.stream(t, url.GetUrl(), "", false).res; res.StatusCode != http.StatusUnauthorized {
		t.Errorf("%d", res.StatusCode)
	}
	if left := time.Until(url.GetExpireTime().AsTime()); left > 0 {
		t.Errorf("it ended %v early", left)
	}
}

// A server that stops ends its streams with when to come back.
func TestDrain(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	s := e.stream(t, "/api/v1/channels:subscribe?channel=c", "", true)
	s.next()
	stream, err := channelv1.NewChannelServiceClient(e.h2c, e.url, connect.WithGRPC()).Subscribe(t.Context(), &channelv1.SubscribeRequest{Channels: []string{"c"}})
	if err != nil || !stream.Receive() {
		t.Fatal(err)
	}
	e.drain()
	if got := s.next(); got.kind != "error" || got.Code != "unavailable" {
		t.Errorf("%+v", got)
	}
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
		t.Errorf("%v", stream.Err())
	}
}
