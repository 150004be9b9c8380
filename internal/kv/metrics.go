package kv

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"plinth/internal/observe"
)

// Metrics returns the metrics of a client's pool of connections.
func Metrics(client redis.UniversalClient) prometheus.Collector {
	open := prometheus.NewDesc("plinth_redis_connections", "Connections to Redis that are open.", nil, nil)
	idle := prometheus.NewDesc("plinth_redis_connections_idle", "Connections to Redis that are not in use.", nil, nil)
	late := prometheus.NewDesc("plinth_redis_wait_timeouts_total", "How often no connection to Redis became free in time.", nil, nil)
	return observe.Gauges{Descs: []*prometheus.Desc{open, idle, late}, Read: func() []prometheus.Metric {
		s := client.PoolStats()
		return []prometheus.Metric{
			observe.Gauge(open, float64(s.TotalConns)), observe.Gauge(idle, float64(s.IdleConns)), observe.Counter(late, float64(s.Timeouts)),
		}
	}}
}
