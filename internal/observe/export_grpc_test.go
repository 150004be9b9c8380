package observe_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"plinth/internal/observe"
)

// taken is a collector of traces by gRPC.
type taken struct {
	collector.UnimplementedTraceServiceServer
	spans chan string // names, with the header x-key of their export
}

func (c taken) Export(ctx context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	of, _ := metadata.FromIncomingContext(ctx)
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans <- span.GetName() + " " + of.Get("x-key")[0]
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestExportByGRPC exports a span, with a header, to a collector that speaks gRPC.
func TestExportByGRPC(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, server := taken{spans: make(chan string, 1)}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	tracing, err := observe.NewTracing(t.Context(), observe.TracingConfig{
		Endpoint: "http://" + listener.Addr().String(), Protocol: "grpc", Headers: "x-key=a%20b", Timeout: 30 * time.Second, Sampler: "always_on",
		Service: "test", Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Start(t.Context(), "call", trace.SpanKindServer)
	span.End("Publish", "")
	tracing.Close(t.Context())
	select {
	case got := <-c.spans:
		if got != "Publish a b" {
			t.Error(got)
		}
	case <-time.After(30 * time.Second):
		t.Error("the collector got nothing")
	}
}
