package observe

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reading is what one process of the cluster reads once in a while, of what all of them share, such as the depths of queues.
// Scrapes cost nothing but what is in memory. The process that reads shows it, and the others show nothing, so that sums over
// processes are right; a process that reads no more shows nothing soon, because the figures are another's then.
type Reading struct {
	fresh time.Duration
	descs []*prometheus.Desc

	mu     sync.Mutex
	at     time.Time
	values []prometheus.Metric
}

// NewReading returns a Reading that is taken once per interval.
func NewReading(interval time.Duration, descs ...*prometheus.Desc) *Reading {
	return &Reading{fresh: 3 * interval, descs: descs}
}

// Set replaces what was read before.
func (r *Reading) Set(values []prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.values = time.Now(), values
}

// Describe implements prometheus.Collector.
func (r *Reading) Describe(to chan<- *prometheus.Desc) {
	for _, d := range r.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Reading) Collect(to chan<- prometheus.Metric) {
	r.mu.Lock()
	at, values := r.at, r.values
	r.mu.Unlock()
	if time.Since(at) > r.fresh {
		return
	}
	for _, v := range values {
		to <- v
	}
}

// Gauge returns a value of a reading.
func Gauge(of *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(of, prometheus.GaugeValue, value, labels...)
}
