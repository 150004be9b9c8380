package channel

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of this domain.
type metrics struct {
	published, delivered, reads, away prometheus.Counter
	gaps                              *prometheus.CounterVec
	streams                           prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		published: counter("plinth_channel_published_total", "Messages that this process published to channels."),
		delivered: counter("plinth_channel_delivered_total", "Messages that were sent to streams of channels, counted once for each stream."),
		reads:     counter("plinth_channel_history_reads_total", "Times that a stream read the history: it was resumed, or too slow, or Redis was away."),
		away:      counter("plinth_channel_away_total", "Questions about channels that Redis did not answer."),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_channel_gaps_total", Help: "Gaps that streams of channels were told of.",
		}, []string{"reason"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plinth_channel_streams", Help: "Streams of channels that are open.",
		}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.published, m.delivered, m.reads, m.away, m.gaps, m.streams}
}
