package observe

import "github.com/prometheus/client_golang/prometheus"

// Gauges are figures that are read when somebody asks for the metrics, such as the connections of a pool. Read must be cheap.
type Gauges struct {
	Descs []*prometheus.Desc
	Read  func() []prometheus.Metric
}

// Describe implements prometheus.Collector.
func (g Gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range g.Descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (g Gauges) Collect(to chan<- prometheus.Metric) {
	for _, m := range g.Read() {
		to <- m
	}
}

// Counter returns a counter of Gauges.
func Counter(of *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(of, prometheus.CounterValue, value, labels...)
}
