package observe

import (
	"context"
	"time"

	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
)

// ExportConfig configures the export of metrics, by OpenTelemetry's names.
type ExportConfig struct {
	Endpoint   string // URL of the collector
	Protocol   string // grpc or http/protobuf
	Headers    string // as those of TracingConfig
	Timeout    time.Duration
	Every      time.Duration
	Service    string
	Attributes string // of the resource, k=v,k=v
	Log        *zap.Logger
}

// Export exports the metrics by OTLP, all that are registered, until close is called, which exports them once more. It does not wait for
// the collector: what that does not take is lost.
func (m *Metrics) Export(ctx context.Context, c ExportConfig) (end func(context.Context), err error) {
	of, err := resourceOf(c.Service, c.Attributes)
	if err != nil {
		return nil, err
	}
	exporter, err := newMetricExporter(ctx, c)
	if err != nil {
		return nil, err
	}
	reader := sdk.NewPeriodicReader(tellingMetrics{exporter, &outage{what: "metrics", secrets: secretsOf(c.Headers), log: c.Log}},
		sdk.WithInterval(c.Every), sdk.WithTimeout(c.Timeout), sdk.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(m.registry))))
	provider := sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithResource(of))
	return func(ctx context.Context) { _ = provider.Shutdown(ctx) }, nil // The exporter has told what went wrong.
}

func newMetricExporter(ctx context.Context, c ExportConfig) (sdk.Exporter, error) {
	headers, err := parseHeaders(c.Headers)
	if err != nil {
		return nil, err
	}
	if c.Protocol == "grpc" {
		return otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpointURL(c.Endpoint), otlpmetricgrpc.WithHeaders(headers),
			otlpmetricgrpc.WithTimeout(c.Timeout), otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{}))
	}
	return otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(c.Endpoint), otlpmetrichttp.WithHeaders(headers),
		otlpmetrichttp.WithTimeout(c.Timeout), otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{}))
}

// tellingMetrics is an exporter whose failures its outage tells.
type tellingMetrics struct {
	sdk.Exporter
	outage *outage
}

func (e tellingMetrics) Export(ctx context.Context, of *metricdata.ResourceMetrics) error {
	e.outage.note(1, e.Exporter.Export(ctx, of))
	return nil
}
