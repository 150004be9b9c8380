package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/kv"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// backendMetrics are those of what the domains share: the pools of connections, the calls out, and what the health checks say.
func (a *App) backendMetrics() []prometheus.Collector {
	pools := map[string]*pg.DB{"calls": a.db.calls, "handlers": a.db.handlers, "work": a.db.work, "directory": a.db.directory}
	if a.db.broker != nil {
		pools["broker"] = a.db.broker
	}
	return append(a.outbound.Metrics(), pg.Metrics(pools), kv.Metrics(a.redis))
}

// metrics returns the metrics of the health checks.
func (h *health) metrics() prometheus.Collector {
	up := prometheus.NewDesc("plinth_backend_up", "Whether a backend can be used, as the process saw it last: 1 or 0.", []string{"backend"}, nil)
	ready := prometheus.NewDesc("plinth_ready", "Whether the process is ready: 1 or 0.", nil, nil)
	return observe.Gauges{Descs: []*prometheus.Desc{up, ready}, Read: func() []prometheus.Metric {
		h.mu.Lock()
		defer h.mu.Unlock()
		all := []prometheus.Metric{observe.Gauge(ready, number(h.ready()))}
		for _, s := range h.states {
			all = append(all, observe.Gauge(up, number(s.err == nil), s.name))
		}
		return all
	}}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// metricsPage returns the content of docs/metrics.md; a test compares the two.
func (a *App) metricsPage() string {
	return "# Metrics\n\n`GET /metrics` on `ADMIN_ADDR` answers in the format of Prometheus, or in that of OpenMetrics to who asks for it. Beside the metrics here\n" +
		"are those of the Go runtime (`go_…`) and of the process (`process_…`).\n\n" +
		"Metrics of queues and of usage are read once in 30 seconds by one process of all, which alone shows them, so sums and maxima over\n" +
		"processes are right. The number of series is bounded: by the methods of the contract, by 100 queues, and by 100 hosts of calls out.\n\n" +
		a.metrics.Page()
}
