package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/bench/cost"
	"plinth/internal/rpc"
)

// TestMain lets the test binary act as the servers too, as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A run calls both servers with every kind of client, and writes a profile of each.
func TestRun(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	profiles := t.TempDir()
	if err := (bench{calls: 100, rounds: 2, profile: profiles}).run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, k := range cost.Kinds() {
		if !strings.Contains(out.String(), "\n"+k.Name+" ") {
			t.Errorf("there is no row for %s in\n%s", k.Name, &out)
		}
		for _, server := range []string{"bare", "full"} {
			file := filepath.Join(profiles, server+"-"+k.Name+".pprof")
			if info, err := os.Stat(file); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v, want a profile", file, err)
			}
		}
	}
	if strings.Contains(out.String(), "(0.00..") {
		t.Errorf("a server used no time:\n%s", &out)
	}
}

// The kinds of clients differ only in what their names say.
func TestKinds(t *testing.T) {
	t.Parallel()
	requests := make(chan *http.Request, 1)
	_, service := messagev1.NewMessageServiceHandler(cost.Stub{})
	server := httptest.NewUnstartedServer(nil)
	server.Config = rpc.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		service.ServeHTTP(w, r)
	}), zap.NewNop())
	server.Start()
	t.Cleanup(server.Close)

	for _, want := range []struct{ name, protocol, contentType, offer string }{
		{"grpc", "HTTP/2.0", "application/grpc", ""},
		{"grpc-gzip", "HTTP/2.0", "application/grpc", "gzip"},
		{"json", "HTTP/1.1", "application/json", "identity"},
		{"json-gzip", "HTTP/1.1", "application/json", "gzip"},
	} {
		t.Run(want.name, func(t *testing.T) {
			client, done := kindCalled(t, want.name).Dial(server.Listener.Addr().String())
			defer done()
			if err := cost.Load(t.Context(), client, 1); err != nil {
				t.Fatal(err)
			}
			r := <-requests
			offer := r.Header.Get("Grpc-Accept-Encoding")
			if strings.HasPrefix(want.name, "json") {
				offer = r.Header.Get("Accept-Encoding")
			}
			if r.Proto != want.protocol || r.Header.Get("Content-Type") != want.contentType || offer != want.offer {
				t.Errorf("%s, %q, offers %q; want %s, %q, %q",
					r.Proto, r.Header.Get("Content-Type"), offer, want.protocol, want.contentType, want.offer)
			}
		})
	}
}

// A server that answers wrongly is not measured.
func TestLoadFails(t *testing.T) {
	t.Parallel()
	_, service := messagev1.NewMessageServiceHandler(wrong{})
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	client, done := kindCalled(t, "json").Dial(server.Listener.Addr().String())
	defer done()
	if err := cost.Load(t.Context(), client, 100); err == nil || !strings.Contains(err.Error(), `"another"`) {
		t.Errorf("the error is %v, want one that shows the wrong id", err)
	}
}

type wrong struct {
	messagev1.UnimplementedMessageServiceHandler
}

func (wrong) Publish(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return &messagev1.PublishResponse{Id: "another"}, nil
}

// The medians decide, and a broken promise is named.
func TestReport(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		bare, none, gz []float64 // of the full server: none and gz
		broken         []string
	}{
		{"kept", []float64{1, 1, 9}, []float64{1.34, 1.34, 9}, []float64{1.34, 1.3}, nil},
		{"full", []float64{1, 1, 1}, []float64{1.36, 1.37, 1}, []float64{1.34}, []string{"grpc: full/bare is 1.36"}},
		{"gzip", []float64{1}, []float64{1}, []float64{1.2, 1.32}, []string{"grpc-gzip: gzip/none is 1.26"}},
		{"both", []float64{1}, []float64{1}, []float64{1.4}, []string{"grpc-gzip: full/bare is 1.40", "grpc-gzip: gzip/none is 1.40"}},
	} {
		var out strings.Builder
		err := report(&out, []result{
			{kind: kindCalled(t, "grpc"), bare: test.bare, full: test.none},
			{kind: kindCalled(t, "grpc-gzip"), bare: test.bare, full: test.gz},
		})
		var broken []string
		if err != nil {
			broken = strings.Split(err.Error(), "\n")
		}
		if len(broken) != len(test.broken) {
			t.Errorf("%s: broken is %q, want %q", test.name, broken, test.broken)
			continue
		}
		for i, want := range test.broken {
			if !strings.HasPrefix(broken[i], want) {
				t.Errorf("%s: broken is %q, want %q", test.name, broken[i], want)
			}
		}
	}
}

func kindCalled(t *testing.T, name string) cost.Kind {
	t.Helper()
	for _, k := range cost.Kinds() {
		if k.Name == name {
			return k
		}
	}
	t.Fatalf("no kind of client is called %q", name)
	return cost.Kind{}
}
