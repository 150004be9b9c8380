package observe_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"plinth/internal/observe"
)

// TestMemoryWithoutCollector ends many more spans than may wait for a collector that never answers. What the process keeps of them is
// bounded. It is not parallel, because it measures the heap.
func TestMemoryWithoutCollector(t *testing.T) {
	hanging := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hanging }))
	tracing, _ := open(t, observe.TracingConfig{Endpoint: hangs.URL + "/v1/traces", Timeout: time.Hour, Recent: true})
	end := func(spans int) uint64 {
		for range spans {
			_, span := tracing.Start(t.Context(), "call", trace.SpanKindServer)
			span.End("call", "", attribute.String("plinth.tenant", "default"), attribute.String("plinth.request_id", "0192b3c4-5d6e-7f80-91a2-b3c4d5e6f708"))
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := end(1)
	full := end(10_000)
	after := end(200_000)
	t.Logf("the heap has %d KiB more with a full queue, and %d KiB more after 200,000 spans", (int64(full)-int64(before))>>10, (int64(after)-int64(before))>>10)
	const most = 10 << 20 // 4,096 spans that wait, 512 that are being exported and the last 200 traces take less than 2 KiB each
	if after > before+most {
		t.Errorf("the heap grows from %d to %d bytes", before, after)
	}
	close(hanging)
	hangs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tracing.Close(ctx)
}
