package rpc

import (
	"cmp"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
)

// protocols are the values of the label protocol. They are few, so that a series is found by its number.
var protocols = [...]string{"connect", "grpc", "grpcweb", "rest", "http"}

const numCodes = int(connect.CodeUnauthenticated) + 1 // ok, which is 0, included

// metrics are those of the calls. There are as many methods as the protos and the plain routes have, and "unknown".
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	open    atomic.Int64
	series  map[*method]*series // filled before the first call
}

// series are those of a method. Each is looked up once, since looking one up by its labels costs several allocations.
type series struct {
	name    string
	calls   [len(protocols)][numCodes]atomic.Pointer[prometheus.Counter]
	seconds [len(protocols)]atomic.Pointer[prometheus.Observer]
}

func newMetrics() *metrics {
	return &metrics{
		series: map[*method]*series{},
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_calls_total", Help: "Calls that have ended, by what they called, how and with which code; ok is success.",
		}, []string{"method", "protocol", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plinth_call_seconds", Help: "How long calls took, to their last byte; without streams, which last as long as somebody wants.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "protocol"}),
	}
}

// know adds the series of a method.
func (m *metrics) know(of *method) {
	m.series[of] = &series{name: methodLabel(of)}
}

// methodLabel returns the name of a method in metrics and spans.
func methodLabel(of *method) string { return cmp.Or(strings.TrimPrefix(of.name, "/"), "unknown") }

// count counts a call that has ended.
func (m *metrics) count(c *call) {
	s := m.series[c.target.method]
	if s == nil {
		return
	}
	p, code := protocolNumber(c), int(c.code)
	if code >= numCodes {
		code = int(connect.CodeUnknown)
	}
	counter := s.calls[p][code].Load()
	if counter == nil {
		one := m.calls.WithLabelValues(s.name, protocols[p], codeName(connect.Code(code)))
		counter = &one
		s.calls[p][code].Store(counter)
	}
	(*counter).Inc()
	if c.target.streams {
		return
	}
	seconds := s.seconds[p].Load()
	if seconds == nil {
		one := m.seconds.WithLabelValues(s.name, protocols[p])
		seconds = &one
		s.seconds[p].Store(seconds)
	}
	took := time.Since(c.start).Seconds()
	if id := c.span.Sampled(); id != "" {
		(*seconds).(prometheus.ExemplarObserver).ObserveWithExemplar(took, prometheus.Labels{"trace_id": id})
		return
	}
	(*seconds).Observe(took)
}

func protocolNumber(c *call) int {
	name := protocol(c)
	for i, p := range protocols {
		if p == name {
			return i
		}
	}
	return len(protocols) - 1
}

// Metrics returns the metrics of the stack.
func (s *Stack) Metrics() []prometheus.Collector {
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	all := []prometheus.Collector{
		s.metrics.calls, s.metrics.seconds,
		gauge("plinth_calls_open", "Calls that have not ended, streams included.", func() float64 { return float64(s.metrics.open.Load()) }),
	}
	if s.streams != nil {
		all = append(all, gauge("plinth_streams_open", "Streams that are open, without those of public methods.",
			func() float64 { return float64(s.streams.Used()) }))
	}
	if s.memory != nil {
		all = append(all, gauge("plinth_body_memory_bytes", "Memory that bodies of requests hold.",
			func() float64 { return float64(s.memory.Used()) }))
	}
	if s.load.calls != nil {
		all = append(all,
			gauge("plinth_concurrency_limit", "Unary calls that may run at a time, as the adaptive limit has it now.",
				func() float64 { return float64(s.load.calls.Limit()) }),
			gauge("plinth_concurrency_used", "Unary calls that run.", func() float64 { return float64(s.load.shares.Used()) }),
			gauge("plinth_concurrency_waiting", "Unary calls that wait for a place.", func() float64 { return float64(s.load.shares.Waiting()) }),
		)
	}
	return all
}
