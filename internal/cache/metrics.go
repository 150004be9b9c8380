package cache

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of this domain.
type metrics struct {
	reads    *prometheus.CounterVec
	away     prometheus.Counter
	remember *prometheus.CounterVec
	near     prometheus.Counter // hits of remember, found once since they take so little
}

func newMetrics() *metrics {
	m := &metrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_cache_reads_total", Help: "Keys that clients read in the cache.",
		}, []string{"result"}),
		away: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plinth_cache_away_total", Help: "Calls of clients that were refused because Redis was away.",
		}),
		remember: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_cache_remember_total", Help: "What Remember did: near, hit, stale, load, and too_large or broken for values that were not kept or read.",
		}, []string{"result"}),
	}
	m.near = m.remember.WithLabelValues("near")
	return m
}

func (m *metrics) read(found bool) {
	result := "miss"
	if found {
		result = "hit"
	}
	m.reads.WithLabelValues(result).Inc()
}

func (m *metrics) remembered(result string) { m.remember.WithLabelValues(result).Inc() }

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.reads, m.away, m.remember}
}
