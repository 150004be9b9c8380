package observe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
)

// TracingConfig configures traces, by OpenTelemetry's names.
type TracingConfig struct {
	Endpoint   string // URL of the collector; empty exports nothing
	Protocol   string // grpc or http/protobuf
	Headers    string // k=v,k=v with the values percent-encoded, as OTEL_EXPORTER_OTLP_HEADERS has them
	Timeout    time.Duration
	Sampler    string  // such as parentbased_traceidratio
	Ratio      float64 // of the ratio samplers, 0 to 1
	Service    string
	Attributes string // of the resource, k=v,k=v
	Recent     bool   // keep the last traces in memory
	Log        *zap.Logger
}

// Limits of what is kept of spans until it is exported. What comes while the queue is full is dropped.
const (
	exportQueue = 4096
	exportBatch = 512
	exportEvery = 2 * time.Second
	maxValue    = 1024 // bytes of an attribute
	maxPerSpan  = 32   // attributes, events and links, each
)

// NewTracing returns the traces of a configuration, or nil if they are off: nothing is exported and nothing is kept. It does not
// wait for the collector. Close ends it.
func NewTracing(ctx context.Context, c TracingConfig) (*Tracing, error) {
	if c.Endpoint == "" && !c.Recent {
		return nil, nil
	}
	s, known := newSampler(c.Sampler, c.Ratio)
	if !known {
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER: %q is not a sampler", c.Sampler)
	}
	of, err := resourceOf(c.Service, c.Attributes)
	if err != nil {
		return nil, err
	}
	limits := sdk.SpanLimits{
		AttributeValueLengthLimit: maxValue, AttributeCountLimit: maxPerSpan, EventCountLimit: maxPerSpan, LinkCountLimit: maxPerSpan,
		AttributePerEventCountLimit: maxPerSpan, AttributePerLinkCountLimit: maxPerSpan,
	}
	options := []sdk.TracerProviderOption{
		sdk.WithSampler(sdk.AlwaysSample()), sdk.WithIDGenerator(generator{}), sdk.WithResource(of), sdk.WithRawSpanLimits(limits),
	}
	t := &Tracing{sampler: s}
	if c.Recent {
		t.recent = newRecent()
		options = append(options, sdk.WithSpanProcessor(t.recent))
	}
	if c.Endpoint != "" {
		exporter, err := newExporter(ctx, c)
		if err != nil {
			return nil, err
		}
		options = append(options, sdk.WithBatcher(telling{exporter, &outage{what: "traces", secrets: secretsOf(c.Headers), log: c.Log}},
			sdk.WithMaxQueueSize(exportQueue), sdk.WithMaxExportBatchSize(exportBatch), sdk.WithBatchTimeout(exportEvery), sdk.WithExportTimeout(c.Timeout)))
	}
	t.provider = sdk.NewTracerProvider(options...)
	t.tracer = t.provider.Tracer(scope)
	return t, nil
}

// Close exports what is left, until ctx ends.
func (t *Tracing) Close(ctx context.Context) {
	if t != nil {
		_ = t.provider.Shutdown(ctx) // The exporter has told what went wrong.
	}
}

// Recent returns the last traces, or nil if they are not kept.
func (t *Tracing) Recent() *Recent {
	if t == nil {
		return nil
	}
	return t.recent
}

func newExporter(ctx context.Context, c TracingConfig) (sdk.SpanExporter, error) {
	headers, err := parseHeaders(c.Headers)
	if err != nil {
		return nil, err
	}
	// A retry holds up what comes after it, and the queue is bounded, so a batch is tried once.
	if c.Protocol == "grpc" {
		return otlptrace.New(ctx, otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL(c.Endpoint), otlptracegrpc.WithHeaders(headers),
			otlptracegrpc.WithTimeout(c.Timeout), otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{})))
	}
	return otlptrace.New(ctx, otlptracehttp.NewClient(otlptracehttp.WithEndpointURL(c.Endpoint), otlptracehttp.WithHeaders(headers),
		otlptracehttp.WithTimeout(c.Timeout), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{})))
}

// LogSDKTo has OpenTelemetry's SDK write to a log what it would write to standard error, without the values: they are those of
// settings, such as headers with credentials.
func LogSDKTo(log *zap.Logger) { otel.SetLogger(logr.New(sdkLog{log})) }

type sdkLog struct{ log *zap.Logger }

func (sdkLog) Init(logr.RuntimeInfo)            {}
func (sdkLog) Enabled(int) bool                 { return false } // It is asked for all but errors.
func (sdkLog) Info(int, string, ...any)         {}
func (l sdkLog) WithValues(...any) logr.LogSink { return l }
func (l sdkLog) WithName(string) logr.LogSink   { return l }
func (l sdkLog) Error(_ error, message string, _ ...any) {
	l.log.Warn("OpenTelemetry does not understand one of its settings", zap.String("failed", message))
}

func resourceOf(service, attributes string) (*resource.Resource, error) {
	build := ReadBuild()
	all := []attribute.KeyValue{attribute.String("service.name", service), attribute.String("service.version", build.Version)}
	pairs, err := parsePairs(attributes)
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES: it takes key=value,key=value with percent-encoded values")
	}
	for key, value := range pairs {
		all = append(all, attribute.String(key, value))
	}
	return resource.NewSchemaless(all...), nil
}

func parsePairs(text string) (map[string]string, error) {
	pairs := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !found || key == "" || err != nil {
			return nil, errors.New("malformed")
		}
		pairs[key] = value
	}
	return pairs, nil
}

// parseHeaders parses the headers of exports. Those that HTTP does not take are refused here, because the error of a request
// repeats their names, which may be a secret that was put in the wrong place.
func parseHeaders(text string) (map[string]string, error) {
	headers, err := parsePairs(text)
	for name, value := range headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			err = errors.New("no header")
		}
	}
	if err != nil {
		return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS: it takes key=value,key=value with percent-encoded values")
	}
	return headers, nil
}

// secretLeast is the least length of a secret: what is shorter may be a part of any text.
const secretLeast = 6

// secretsOf returns what removes the values of headers from a text, and each word of one: a scheme such as Bearer is no part of a token.
func secretsOf(headers string) *strings.Replacer {
	pairs, _ := parsePairs(headers) // The exporter has refused those that are malformed.
	var parts, hide []string
	for _, value := range pairs {
		parts = append(append(parts, value), strings.Fields(value)...)
	}
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) }) // What is a part of another one comes after it.
	for _, part := range parts {
		if len(part) >= secretLeast {
			hide = append(hide, part, "***")
		}
	}
	return strings.NewReplacer(hide...)
}

// telling is an exporter whose failures its outage tells. The SDK would write each to standard error.
type telling struct {
	sdk.SpanExporter
	outage *outage
}

func (e telling) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	e.outage.note(len(spans), e.SpanExporter.ExportSpans(ctx, spans))
	return nil
}

// outage tells once that the collector is away, and once that it is back. What was exported meanwhile is lost.
type outage struct {
	what    string
	secrets *strings.Replacer // of an error, which has the reply of the collector, and that may repeat the headers
	log     *zap.Logger

	mu   sync.Mutex
	lost int
}

// note takes the outcome of an export of n.
func (o *outage) note(n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil:
		if o.lost == 0 {
			o.log.Warn(o.what+" are lost: the collector does not take them", zap.String("error", o.secrets.Replace(err.Error())))
		}
		o.lost += n
	case o.lost > 0:
		o.log.Info("the collector takes "+o.what+" again", zap.Int("lost", o.lost))
		o.lost = 0
	}
}
