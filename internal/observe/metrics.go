package observe

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the service's own metrics, in Prometheus' format.
type Metrics struct {
	registry *prometheus.Registry
	denied   *prometheus.CounterVec
}

// NewMetrics returns the metrics, including those of the Go runtime and of the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_denied_total", Help: "Calls that were refused to who asked: unknown, or without the scope.",
		}, []string{"procedure"}),
	}
	m.registry.MustRegister(m.denied, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Denied counts a call that was refused to who asked. There are as many procedures as the protos have, and "rest".
func (m *Metrics) Denied(procedure string) { m.denied.WithLabelValues(procedure).Inc() }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
