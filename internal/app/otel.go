package app

import (
	"cmp"
	"strings"
	"time"

	"go.uber.org/zap"

	"plinth/internal/observe"
)

// Values of OTEL_EXPORTER_OTLP_PROTOCOL.
const (
	otlpGRPC = "grpc"
	otlpHTTP = "http/protobuf"
)

// Values of OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER.
const (
	exporterOTLP = "otlp"
	exporterNone = "none"
)

// otelConfig configures traces, and the export of metrics, by OpenTelemetry's own variables. What the exporters read besides, such as the certificates of the
// collector, is in https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
type otelConfig struct {
	Disabled        bool    `env:"SDK_DISABLED" envDefault:"false" help:"true: no traces, and no export of metrics"`
	Endpoint        Secret  `env:"EXPORTER_OTLP_ENDPOINT" help:"collector that traces are exported to, by OTLP, e.g. http://127.0.0.1:4318; empty is none, and then there are no traces"`
	TracesEndpoint  Secret  `env:"EXPORTER_OTLP_TRACES_ENDPOINT" help:"the same for traces alone; with http/protobuf the whole URL, /v1/traces included"`
	Traces          string  `env:"TRACES_EXPORTER" envDefault:"otlp" help:"otlp: traces are exported to the collector, if one is named; none: they are not"`
	Metrics         string  `env:"METRICS_EXPORTER" envDefault:"none" help:"otlp: metrics are exported to the collector, beside /metrics of ADMIN_ADDR; none: they are not"`
	MetricsEndpoint Secret  `env:"EXPORTER_OTLP_METRICS_ENDPOINT" help:"collector of metrics alone; with http/protobuf the whole URL, /v1/metrics included"`
	MetricsInterval int     `env:"METRIC_EXPORT_INTERVAL" envDefault:"60000" help:"milliseconds from one export of metrics to the next"`
	Protocol        string  `env:"EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf" help:"http/protobuf or grpc"`
	Headers         Secret  `env:"EXPORTER_OTLP_HEADERS" help:"headers of exports, key=value,key=value with percent-encoded values"`
	Timeout         int     `env:"EXPORTER_OTLP_TIMEOUT" envDefault:"10000" help:"milliseconds that an export may take"`
	Sampler         string  `env:"TRACES_SAMPLER" envDefault:"parentbased_always_on" help:"which traces are recorded: always_on, always_off, traceidratio, or by the caller's decision with parentbased_ before these; of the others, calls and messages that fail because of the service have one span"`
	SamplerArg      float64 `env:"TRACES_SAMPLER_ARG" envDefault:"1" help:"ratio of traceidratio, 0 to 1"`
	ServiceName     string  `env:"SERVICE_NAME" envDefault:"plinth" help:"service.name of the traces"`
	Resource        string  `env:"RESOURCE_ATTRIBUTES" help:"attributes of the process, key=value,key=value"`
}

func (c *otelConfig) Check(want want) {
	wantURL(want, "EXPORTER_OTLP_ENDPOINT", c.Endpoint, "http", "https")
	wantURL(want, "EXPORTER_OTLP_TRACES_ENDPOINT", c.TracesEndpoint, "http", "https")
	wantURL(want, "EXPORTER_OTLP_METRICS_ENDPOINT", c.MetricsEndpoint, "http", "https")
	wantOneOf(want, "TRACES_EXPORTER", c.Traces, exporterOTLP, exporterNone)
	wantOneOf(want, "METRICS_EXPORTER", c.Metrics, exporterOTLP, exporterNone)
	want(c.Metrics != exporterOTLP || c.Endpoint != "" || c.MetricsEndpoint != "", "METRICS_EXPORTER", "is otlp, and OTEL_EXPORTER_OTLP_ENDPOINT names no collector")
	want(c.MetricsInterval > 0, "METRIC_EXPORT_INTERVAL", "must be more than 0")
	wantOneOf(want, "EXPORTER_OTLP_PROTOCOL", c.Protocol, otlpHTTP, otlpGRPC)
	want(c.Timeout > 0, "EXPORTER_OTLP_TIMEOUT", "must be more than 0")
	wantOneOf(want, "TRACES_SAMPLER", c.Sampler, "always_on", "always_off", "traceidratio",
		"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")
	want(c.SamplerArg >= 0 && c.SamplerArg <= 1, "TRACES_SAMPLER_ARG", "must be 0 to 1")
}

// tracing returns the configuration of the traces. cmd/dev keeps the last ones in memory.
func (c *otelConfig) tracing(role Role, log *zap.Logger) observe.TracingConfig {
	t := observe.TracingConfig{
		Protocol: c.Protocol, Headers: string(c.Headers), Timeout: time.Duration(c.Timeout) * time.Millisecond,
		Sampler: c.Sampler, Ratio: c.SamplerArg, Service: c.ServiceName, Attributes: c.Resource, Log: log,
	}
	if c.Disabled {
		return t
	}
	if c.Traces == exporterOTLP {
		t.Endpoint = c.endpoint(c.TracesEndpoint, "/v1/traces")
	}
	t.Recent = t.Endpoint != "" || role == Dev
	return t
}

// endpoint returns the URL for one kind of data: its own, or else that of the collector, with the path for the kind if that is HTTP.
func (c *otelConfig) endpoint(own Secret, path string) string {
	if own != "" || c.Endpoint == "" || c.Protocol != otlpHTTP {
		return cmp.Or(string(own), string(c.Endpoint))
	}
	return strings.TrimRight(string(c.Endpoint), "/") + path
}

// exports reports whether metrics are exported.
func (c *otelConfig) exports() bool { return !c.Disabled && c.Metrics == exporterOTLP }

// metrics returns the configuration of the export of metrics.
func (c *otelConfig) metrics(log *zap.Logger) observe.ExportConfig {
	return observe.ExportConfig{
		Endpoint: c.endpoint(c.MetricsEndpoint, "/v1/metrics"), Protocol: c.Protocol, Headers: string(c.Headers),
		Timeout: time.Duration(c.Timeout) * time.Millisecond, Every: time.Duration(c.MetricsInterval) * time.Millisecond,
		Service: c.ServiceName, Attributes: c.Resource, Log: log,
	}
}
