package observe_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/observe"
	"plinth/internal/observe/observetest"
)

// exported returns metrics that are exported to a collector, what ends that, and the lines of the log.
func exported(t *testing.T, collector *observetest.Collector, every time.Duration) (m *observe.Metrics, end func(), logs *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	m = observe.NewMetrics()
	stop, err := m.Export(t.Context(), observe.ExportConfig{
		Endpoint: collector.MetricsURL, Protocol: "http/protobuf", Timeout: 10 * time.Second, Every: every, Service: "test", Log: zap.New(core),
		Headers: "authorization=Bearer%20sesame-street,x-tenant=a",
	})
	if err != nil {
		t.Fatal(err)
	}
	end = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stop(ctx)
	}
	return m, end, logs
}

func sum(m *metricsv1.Metric) float64 { return m.GetSum().GetDataPoints()[0].GetAsDouble() }

// Metrics are exported as they are scraped, at intervals and at the end.
func TestExportOfMetrics(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	m, end, _ := exported(t, collector, 20*time.Millisecond)
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "plinth_test_seconds", Help: "A test.", Buckets: []float64{1, 10}})
	m.Register(seconds)
	seconds.Observe(5)
	m.Denied("a")
	collector.AwaitMetric(t, "plinth_denied_total", func(m *metricsv1.Metric) bool { return sum(m) == 1 })
	collector.AwaitMetric(t, "plinth_test_seconds", func(m *metricsv1.Metric) bool {
		of := m.GetHistogram().GetDataPoints()
		return len(of) == 1 && of[0].GetSum() == 5 && len(of[0].GetBucketCounts()) == 3 && of[0].GetBucketCounts()[1] == 1
	})
	end()

	m, end, _ = exported(t, collector, time.Hour)
	for range 7 {
		m.Denied("a")
	}
	end()
	collector.AwaitMetric(t, "plinth_denied_total", func(m *metricsv1.Metric) bool { return sum(m) == 7 })
}

// That a collector does not take metrics is told once, and that it takes them again.
func TestExportOfMetricsIsRefused(t *testing.T) {
	t.Parallel()
	collector := observetest.New(t)
	collector.Refuse(true)
	_, end, logs := exported(t, collector, time.Millisecond)
	defer end()
	for limit := time.Now().Add(10 * time.Second); logs.Len() == 0 && time.Now().Before(limit); <-time.After(time.Millisecond) {
	}
	collector.Refuse(false)
	collector.AwaitMetric(t, "plinth_build_info", func(*metricsv1.Metric) bool { return true })
	for limit := time.Now().Add(10 * time.Second); logs.Len() < 2 && time.Now().Before(limit); <-time.After(time.Millisecond) {
	}
	if lines := logs.All(); len(lines) != 2 || lines[0].Message != "metrics are lost: the collector does not take them" ||
		lines[1].Message != "the collector takes metrics again" {
		t.Errorf("%v", lines)
	} else if said := lines[0].ContextMap()["error"].(string); !strings.Contains(said, "not with") || strings.Contains(said, "sesame") || !strings.Contains(said, "metrics: 400 Bad") {
		t.Errorf("it says %s", said)
	}
}
