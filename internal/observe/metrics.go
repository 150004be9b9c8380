package observe

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the service's own metrics, in the formats of Prometheus and OpenMetrics.
type Metrics struct {
	registry *prometheus.Registry
	own      []prometheus.Collector
	denied   *prometheus.CounterVec
}

// NewMetrics returns the metrics, including those of the build, the Go runtime and the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_denied_total", Help: "Calls that were refused to who asked: unknown, or without the scope.",
		}, []string{"procedure"}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Register(m.denied, buildInfo())
	return m
}

func buildInfo() prometheus.Collector {
	b := ReadBuild()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "plinth_build_info", Help: "What the binary was built from; always 1.",
	}, []string{"version", "revision", "go"})
	info.WithLabelValues(b.Version, b.Revision, b.Go).Set(1)
	return info
}

// Register adds the metrics of another package.
func (m *Metrics) Register(collectors ...prometheus.Collector) {
	m.registry.MustRegister(collectors...)
	m.own = append(m.own, collectors...)
}

// Gatherer returns what gathers all metrics.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Denied counts a call that was refused to who asked. There are as many procedures as the protos have, and "rest".
func (m *Metrics) Denied(procedure string) { m.denied.WithLabelValues(procedure).Inc() }

// Handler serves the metrics in the format that the client asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}
