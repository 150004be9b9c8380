package outbound

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxHosts is the most hosts that have metrics of their own, the first that are called. All others are "other".
const maxHosts = 100

type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec

	mu    sync.Mutex
	hosts map[string]bool
}

func newMetrics() *metrics {
	return &metrics{
		hosts: map[string]bool{},
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_outbound_calls_total",
			Help: "Attempts of calls out: by the host, the first 100 of them, and by the class of the status, or what went wrong.",
		}, []string{"host", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plinth_outbound_call_seconds", Help: "How long attempts of calls out took, their replies read.",
			Buckets: []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"host"}),
	}
}

func (m *metrics) label(host string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.hosts[host] {
		if len(m.hosts) >= maxHosts {
			return "other"
		}
		m.hosts[host] = true
	}
	return host
}

func (m *metrics) count(host, result string, took time.Duration) {
	label := m.label(host)
	m.calls.WithLabelValues(label, result).Inc()
	m.seconds.WithLabelValues(label).Observe(took.Seconds())
}

// metrics returns the metrics of the breakers.
func (b *breakers) metrics() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "plinth_outbound_breakers_open", Help: "Hosts of tenants that are left alone after failures.",
	}, func() (open float64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for e := b.order.Front(); e != nil; e = e.Next() {
			if e.Value.(*breaker).IsOpen() {
				open++
			}
		}
		return open
	})
}
