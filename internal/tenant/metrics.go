package tenant

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/observe"
)

// metrics are those of this domain.
type metrics struct {
	*observe.Reading
	used *prometheus.Desc
}

func newMetrics() *metrics {
	used := prometheus.NewDesc("plinth_used", "What all tenants together have of what is counted, such as files and bytes of files.",
		[]string{"resource"}, nil)
	return &metrics{observe.NewReading(foldEvery, used), used}
}

// Metrics returns the metrics of this domain.
func (s *Service) Metrics() []prometheus.Collector { return []prometheus.Collector{s.metrics} }

// measure reads what the metrics tell of all tenants.
func (s *Service) measure(ctx context.Context) error {
	used, err := selectUsed(ctx, s.system)
	if err != nil {
		return err
	}
	var values []prometheus.Metric
	for resource, n := range used {
		values = append(values, observe.Gauge(s.metrics.used, float64(n), resource))
	}
	s.metrics.Set(values)
	return nil
}
