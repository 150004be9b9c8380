package lock

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/observe"
)

// metrics are those of this domain.
type metrics struct {
	taken   *prometheus.CounterVec
	waited  prometheus.Histogram
	lost    prometheus.Counter
	waiting prometheus.GaugeFunc

	held    *observe.Reading // by sweep
	heldNow *prometheus.Desc
}

func newMetrics(w *waiters) *metrics {
	m := &metrics{
		heldNow: prometheus.NewDesc("plinth_locks_held", "Correct locks that somebody has, among the first 100,000; counted once a minute by one process.", nil, nil),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_locks_acquired_total", Help: "Leases of locks that were given.",
		}, []string{"kind"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "plinth_lock_acquire_seconds", Help: "How long it took to get a lock, the wait for others included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plinth_lock_leases_lost_total", Help: "Leases that ended while the work of this process under them was not done.",
		}),
		waiting: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "plinth_lock_waiters", Help: "Clients of this process that wait for a lock.",
		}, func() float64 { return float64(w.count()) }),
	}
	m.held = observe.NewReading(sweepEvery, m.heldNow)
	return m
}

func (m *metrics) acquired(fast bool, after time.Duration) {
	kind := "correct"
	if fast {
		kind = "fast"
	}
	m.taken.WithLabelValues(kind).Inc()
	m.waited.Observe(after.Seconds())
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.taken, m.waited, m.lost, m.waiting, m.held}
}
