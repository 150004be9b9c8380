package cache_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "plinth/api/plinth/cache/v1"
	"plinth/internal/cache"
	"plinth/internal/rpc"
)

// newEdge returns the URL of a cache behind the production stack.
func newEdge(t *testing.T) string {
	t.Helper()
	s := newService(opener("redis://" + miniredis.RunT(t).Addr())(t))
	stack := rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: time.Minute, Draining: context.Background()})
	handler, err := stack.Handler([]rpc.Service{func(o ...connect.HandlerOption) (string, http.Handler) {
		return cachev1.NewCacheServiceHandler(cache.NewRPC(s), o...)
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func TestRPC(t *testing.T) {
	t.Parallel()
	url := newEdge(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2c := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	for name, options := range map[string][]connect.ClientOption{
		"Connect": nil, "Connect JSON by GET": {connect.WithProtoJSON(), connect.WithHTTPGet()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx := cachev1.NewCacheServiceClient(h2c, url, options...), t.Context()
			set, err := c.Set(ctx, &cachev1.SetRequest{Key: name, Value: []byte{0, 255}, Ttl: durationpb.New(time.Minute)})
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.Get(ctx, &cachev1.GetRequest{Key: name})
			if err != nil || string(e.GetValue()) != "\x00\xff" || e.GetVersion() != set.GetVersion() || time.Until(e.GetExpireTime().AsTime()) > time.Minute {
				t.Errorf("%v %v", e, err)
			}
			all, err := c.SetMany(ctx, &cachev1.SetManyRequest{Entries: []*cachev1.SetRequest{
				{Key: name, IfVersion: set.GetVersion(), Value: []byte("41")}, {Key: ""}, {Key: "x", IfAbsent: true, IfVersion: "x"}, {Key: name, IfAbsent: true},
			}})
			if err != nil || len(all.GetResults()) != 4 || all.GetResults()[0].GetVersion() == "" || all.GetResults()[1].GetError().GetCode() != "invalid_argument" ||
				all.GetResults()[2].GetError().GetCode() != "invalid_argument" || all.GetResults()[3].GetError().GetCode() != "failed_precondition" {
				t.Errorf("%v %v", all, err)
			}
			if sum, err := c.Increment(ctx, &cachev1.IncrementRequest{Key: name}); err != nil || sum.GetValue() != 42 {
				t.Errorf("%v %v", sum, err)
			}
			if _, err := c.Expire(ctx, &cachev1.ExpireRequest{Key: name, Ttl: durationpb.New(time.Hour)}); err != nil {
				t.Error(err)
			}
			got, err := c.GetMany(ctx, &cachev1.GetManyRequest{Keys: []string{name, "none"}})
			if err != nil || string(got.GetResults()[0].GetEntry().GetValue()) != "42" || got.GetResults()[1].GetError().GetCode() != "not_found" {
				t.Errorf("%v %v", got, err)
			}
			if gone, err := c.Delete(ctx, &cachev1.DeleteRequest{Key: name}); err != nil || !gone.GetDeleted() {
				t.Errorf("%v %v", gone, err)
			}
			for what, try := range map[string]func() error{
				"no time to live": func() error { _, err := c.Expire(ctx, &cachev1.ExpireRequest{Key: name}); return err },
				"0 s": func() error {
					_, err := c.Set(ctx, &cachev1.SetRequest{Key: name, Ttl: &durationpb.Duration{}})
					return err
				},
				"31 days": func() error {
					_, err := c.Set(ctx, &cachev1.SetRequest{Key: name, Ttl: durationpb.New(31 * 24 * time.Hour)})
					return err
				},
				"513 bytes": func() error {
					_, err := c.Get(ctx, &cachev1.GetRequest{Key: strings.Repeat("k", 513)})
					return err
				},
				"101 keys": func() error {
					_, err := c.GetMany(ctx, &cachev1.GetManyRequest{Keys: strings.Split(strings.Repeat("k", 101), "")})
					return err
				},
				"two conditions": func() error {
					_, err := c.Set(ctx, &cachev1.SetRequest{Key: name, IfAbsent: true, IfVersion: "x"})
					return err
				},
			} {
				if err := try(); connect.CodeOf(err) != connect.CodeInvalidArgument {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// TestREST uses the conditions of HTTP.
func TestREST(t *testing.T) {
	t.Parallel()
	url := newEdge(t) + "/api/v1/cache"
	call := func(status int, method, path, body string, header ...string) (tag string, reply map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Add(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode != status {
			t.Fatalf("%s %s %v: %s %s, want %d", method, path, header, res.Status, text, status)
		}
		_ = json.Unmarshal(text, &reply)
		return res.Header.Get("ETag"), reply
	}
	const path = "/a%2Fb%3Ac" // a/b:c
	call(http.StatusPreconditionFailed, "PUT", path, `{"value":"eA=="}`, "If-Match", "*")
	first, reply := call(http.StatusOK, "PUT", path, `{"value":"eA=="}`, "If-None-Match", "*")
	if first != `"`+reply["version"].(string)+`"` {
		t.Errorf("%s %v", first, reply)
	}
	call(http.StatusPreconditionFailed, "PUT", path, `{"value":"eA=="}`, "If-None-Match", "*")
	if tag, reply := call(http.StatusOK, "GET", path, ""); tag != first || reply["value"] != "eA==" || reply["expireTime"] == nil {
		t.Errorf("%s %v", tag, reply)
	}
	call(http.StatusNotModified, "GET", path, "", "If-None-Match", first)
	call(http.StatusOK, "GET", path, "", "If-Match", `"other", `+first)
	call(http.StatusOK, "GET", path, "", "If-Match", "*")
	call(http.StatusPreconditionFailed, "GET", path, "", "If-Match", `"other"`)
	call(http.StatusPreconditionFailed, "GET", path, "", "If-Match", "W/"+first)
	call(http.StatusNotFound, "GET", "/none", "", "If-Match", "*")
	call(http.StatusPreconditionFailed, "PUT", path, `{}`, "If-Match", `"*"`) // A tag of one star is no star.
	call(http.StatusPreconditionFailed, "DELETE", path, "", "If-Match", `"*"`)
	call(http.StatusBadRequest, "PUT", path, `{}`, "If-None-Match", `"*"`)
	second, _ := call(http.StatusOK, "PUT", path, `{"value":"MQ==","ttl":"60s"}`, "If-Match", `"other", `+first)
	call(http.StatusOK, "GET", path, "", "If-None-Match", first)
	call(http.StatusPreconditionFailed, "PUT", path, `{}`, "If-Match", first)
	call(http.StatusPreconditionFailed, "PUT", path, `{}`, "If-Match", `W/`+second)
	call(http.StatusBadRequest, "PUT", path, `{}`, "If-None-Match", second)
	call(http.StatusBadRequest, "PUT", path, `{"ifAbsent":true}`, "If-Match", second)
	version := strings.Trim(second, `"`)
	for _, wrong := range []string{"", version, `"` + version, second + " " + second, "*, " + second, `"x`} { // No list of tags.
		call(http.StatusBadRequest, "PUT", path, `{}`, "If-Match", wrong)
		call(http.StatusBadRequest, "GET", path, "", "If-Match", wrong)
		call(http.StatusBadRequest, "DELETE", path, "", "If-Match", wrong)
	}
	call(http.StatusPreconditionFailed, "PUT", path, `{}`, "If-Match", `"x,`+version+`"`) // One tag, with a comma.
	call(http.StatusPreconditionFailed, "DELETE", path, "", "If-Match", `"x,`+version+`"`)
	call(http.StatusOK, "GET", path, "", "If-None-Match", `"x,`+version+`"`)
	call(http.StatusPreconditionFailed, "PUT", path, `{}`, "If-None-Match", "*", "If-None-Match", "*")
	call(http.StatusBadRequest, "PUT", path, `{}`, "If-None-Match", " , ")
	call(http.StatusBadRequest, "PUT", path, `{}`, "If-Match", "", "If-None-Match", "*")
	if _, reply := call(http.StatusOK, "POST", path+":increment", `{"delta":"4"}`); reply["value"] != "5" {
		t.Errorf("%v", reply)
	}
	call(http.StatusBadRequest, "POST", path+":increment", `{}`, "If-Match", second)
	call(http.StatusBadRequest, "POST", ":setMany", `{"entries":[{"key":"m","value":""}]}`, "If-None-Match", "*")
	call(http.StatusBadRequest, "PUT", path, `{"ifAbsent":true}`)
	call(http.StatusBadRequest, "POST", path+":expire", `{"ttl":"60s"}`, "If-None-Match", "*")
	call(http.StatusOK, "POST", path+":expire", `{"ttl":"1.5s"}`)
	call(http.StatusPreconditionFailed, "DELETE", path, "", "If-Match", second)
	if _, reply := call(http.StatusOK, "DELETE", path, "", "If-Match", "*"); reply["deleted"] != true {
		t.Errorf("%v", reply)
	}
	call(http.StatusNotFound, "GET", path, "")
	call(http.StatusOK, "POST", ":setMany", `{"entries":[{"key":"m","value":""}]}`)
	if _, reply := call(http.StatusOK, "POST", ":getMany", `{"keys":["m","n"]}`); len(reply["results"].([]any)) != 2 {
		t.Errorf("%v", reply)
	}
}
