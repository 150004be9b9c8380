package pg

import (
	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/observe"
)

// Metrics returns the metrics of pools, by their names.
func Metrics(pools map[string]*DB) prometheus.Collector {
	labels := []string{"pool"}
	open := prometheus.NewDesc("plinth_postgres_connections", "Connections of a pool that are open.", labels, nil)
	used := prometheus.NewDesc("plinth_postgres_connections_used", "Connections of a pool that are in use.", labels, nil)
	most := prometheus.NewDesc("plinth_postgres_connections_max", "Most connections of a pool.", labels, nil)
	waits := prometheus.NewDesc("plinth_postgres_waits_total", "How often all connections of a pool were in use when one was wanted.", labels, nil)
	waited := prometheus.NewDesc("plinth_postgres_wait_seconds_total", "How long was waited for connections of a pool.", labels, nil)
	return observe.Gauges{Descs: []*prometheus.Desc{open, used, most, waits, waited}, Read: func() (all []prometheus.Metric) {
		for name, db := range pools {
			s := db.conns.Stat()
			all = append(all,
				observe.Gauge(open, float64(s.TotalConns()), name), observe.Gauge(used, float64(s.AcquiredConns()), name),
				observe.Gauge(most, float64(s.MaxConns()), name), observe.Counter(waits, float64(s.EmptyAcquireCount()), name),
				observe.Counter(waited, s.EmptyAcquireWaitTime().Seconds(), name))
		}
		return all
	}}
}
