package rpc_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// TestMetrics counts calls of several protocols, by their codes.
func TestMetrics(t *testing.T) {
	t.Parallel()
	fail := false
	f := configured(t, stub{publish: func(ctx context.Context, req *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
		if fail {
			return nil, errors.New("x")
		}
		return answer(ctx, req)
	}}, rpc.Config{Timeout: time.Minute})
	call := func(path, contentType, body string) {
		t.Helper()
		res, err := f.http.Post(f.url+path, contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	const json = "application/json"
	call(procedure, json, good)
	call(procedure, json, good)
	call(route, json, good)
	fail = true
	call(procedure, json, good)
	call("/made/up", json, "")
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.stack.Metrics()...)
	const publish = "plinth.message.v1.MessageService/Publish"
	want := map[string]float64{
		"plinth_calls_total internal " + publish + " connect": 1, "plinth_calls_total ok " + publish + " connect": 2,
		"plinth_calls_total ok " + publish + " rest": 1, "plinth_calls_total not_found unknown http": 1,
		"plinth_call_seconds " + publish + " connect": 3, "plinth_call_seconds " + publish + " rest": 1, "plinth_call_seconds unknown http": 1,
		"plinth_calls_open": 0,
	}
	deadline := time.Now().Add(10 * time.Second) // A call is counted after its reply.
	for {
		got := map[string]float64{}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				name := family.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				if strings.HasPrefix(name, "plinth_call") {
					got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
		if maps.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	}
}
