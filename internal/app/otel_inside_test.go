package app

import (
	"testing"

	"go.uber.org/zap"
)

// OpenTelemetry's variables say what is exported.
func TestOTelEndpoints(t *testing.T) {
	t.Parallel()
	collector := Secret("http://127.0.0.1:4318")
	for name, test := range map[string]struct {
		config otelConfig
		role   Role
		want   string
		recent bool
	}{
		"a collector":                {otelConfig{Endpoint: collector, Traces: exporterOTLP, Protocol: otlpHTTP}, Server, "http://127.0.0.1:4318/v1/traces", true},
		"a collector of metrics":     {otelConfig{Endpoint: collector, Traces: exporterNone, Protocol: otlpHTTP}, Server, "", false},
		"traces in memory":           {otelConfig{Endpoint: collector, Traces: exporterNone, Protocol: otlpHTTP}, Dev, "", true},
		"no collector":               {otelConfig{Traces: exporterOTLP, Protocol: otlpHTTP}, Server, "", false},
		"everything is switched off": {otelConfig{Endpoint: collector, Traces: exporterOTLP, Protocol: otlpHTTP, Disabled: true}, Dev, "", false},
	} {
		if got := test.config.tracing(test.role, zap.NewNop()); got.Endpoint != test.want || got.Recent != test.recent {
			t.Errorf("%s: %q and %v", name, got.Endpoint, got.Recent)
		}
	}
}
