package observe

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// described is what a metric says of itself.
type described struct{ name, kind, help, labels string }

// A Desc has no exported fields. Its text is the only thing that has them.
var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*?)"(?:, unit: "[^"]*")?, constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// Page returns a table of the service's own metrics, in Markdown. docs/metrics.md has it.
func (m *Metrics) Page() string {
	var all []described
	for _, c := range m.own {
		descs := make(chan *prometheus.Desc, 64)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			parts := descText.FindStringSubmatch(d.String())
			if parts == nil {
				panic("observe: a metric that cannot be described: " + d.String())
			}
			all = append(all, described{parts[1], kindOf(c, parts[1]), parts[2], parts[3]})
		}
	}
	slices.SortFunc(all, func(a, b described) int { return cmp.Compare(a.name, b.name) })
	var page strings.Builder
	page.WriteString("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, d := range all {
		labels := ""
		if d.labels != "" {
			labels = "`" + strings.ReplaceAll(d.labels, ",", "`, `") + "`"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", d.name, d.kind, labels, d.help)
	}
	return page.String()
}

// kindOf returns the type of a metric. Names of counters end in _total.
func kindOf(c prometheus.Collector, name string) string {
	switch c.(type) {
	case *prometheus.HistogramVec, prometheus.Histogram:
		return "histogram"
	}
	if strings.HasSuffix(name, "_total") {
		return "counter"
	}
	return "gauge"
}
