package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// unseen are the series that dashboards and rules name and a healthy run does not have, by why it has none.
var unseen = map[string]string{
	`plinth_channel_gaps_total`: "a stream has a gap only when messages were lost to it",
}

// query is an expression of a dashboard or a rule, with the labels that its legend or its text shows.
type query struct {
	where, expr string
	shows       []string
}

var (
	selector  = regexp.MustCompile(`\b((?:plinth|go|process)_\w+)(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
	grouping  = regexp.MustCompile(`\bby \(([^)]*)\)`)
	legend    = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}`)
	sample    = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+`)
	labelPair = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
)

// queries returns what the dashboards and the rules ask Prometheus for.
func queries(t testing.TB) (all []query) {
	t.Helper()
	files, err := filepath.Glob(root + "/deploy/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr, LegendFormat string }
			}
		}
		decode(t, file, json.Unmarshal, &dashboard)
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				all = append(all, query{filepath.Base(file) + ": " + panel.Title, target.Expr, shown(target.LegendFormat)})
			}
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Record, Expr string
				Annotations         map[string]string
			}
		}
	}
	decode(t, root+"/deploy/prometheus/rules.yaml", yaml.Unmarshal, &rules)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			all = append(all, query{"rules.yaml: " + rule.Alert + rule.Record, rule.Expr, shown(rule.Annotations["summary"])})
		}
	}
	return all
}

func decode(t testing.TB, file string, unmarshal func([]byte, any) error, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(file, err)
	}
}

func shown(text string) (labels []string) {
	for _, m := range legend.FindAllStringSubmatch(text, -1) {
		labels = append(labels, m[1])
	}
	return labels
}

// series are the labels of each series of a metric, by its name.
type series map[string][]map[string]string

// scrape adds what a process shows to Prometheus, in both formats: they write the bounds of histograms in two ways.
func (s series) scrape(t testing.TB, admin string) {
	t.Helper()
	for _, format := range []string{"text/plain", "application/openmetrics-text; version=1.0.0"} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", admin+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", format)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res.Status, err)
		}
		if strings.HasPrefix(format, "application/") && strings.Contains(string(text), "plinth_call_seconds_bucket{") && !strings.Contains(string(text), ` # {trace_id="`) {
			t.Error("the durations of calls have no exemplars")
		}
		for line := range strings.Lines(string(text)) {
			if m := sample.FindStringSubmatch(line); m != nil {
				labels := map[string]string{}
				for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
					labels[pair[1]] = pair[2]
				}
				s[m[1]] = append(s[m[1]], labels)
			}
		}
	}
}

// fromPrometheus are the labels that Prometheus adds.
var fromPrometheus = []string{"instance", "job"}

// selects reports whether a series has what the matchers want. Those of labels that Prometheus adds hold.
func selects(matchers string, labels map[string]string) bool {
	for _, m := range matcher.FindAllStringSubmatch(matchers, -1) {
		name, how, want := m[1], m[2], m[3]
		got, has := labels[name]
		if slices.Contains(fromPrometheus, name) {
			continue
		}
		equal := got == want
		if strings.HasSuffix(how, "~") {
			equal = regexp.MustCompile("^(?:" + want + ")$").MatchString(got)
		}
		if !has || equal == strings.HasPrefix(how, "!") {
			return false
		}
	}
	return true
}

// lacks returns what a query names and is not in the series: a selector, or a label. checked is how many selectors it names.
func (s series) lacks(q query) (missing []string, checked int) {
	var kept []string // the labels that the query leaves, nil if it leaves all
	for _, m := range grouping.FindAllStringSubmatch(q.expr, -1) {
		kept = append(kept, regexp.MustCompile(`\w+`).FindAllString(m[1], -1)...)
	}
	labels := append(slices.Clone(kept), q.shows...)
	slices.Sort(labels)
	labels = slices.Compact(labels)
	for _, m := range selector.FindAllStringSubmatch(q.expr, -1) {
		checked++
		if unseen[m[1]] != "" {
			continue
		}
		at := slices.IndexFunc(s[m[1]], func(labels map[string]string) bool { return selects(m[2], labels) })
		if at < 0 {
			missing = append(missing, m[0])
			continue
		}
		for _, name := range labels {
			if _, has := s[m[1]][at][name]; !has && !slices.Contains(fromPrometheus, name) {
				missing = append(missing, name+" of "+m[0])
			}
		}
	}
	for _, name := range q.shows {
		if kept != nil && !slices.Contains(kept, name) {
			missing = append(missing, name+" after the grouping")
		}
	}
	return missing, checked
}

// checkFigures compares what the dashboards and the rules name with what processes show that have been used, and have had failures.
// It waits, since figures of queues and of usage are read every 30 seconds.
func checkFigures(t testing.TB, admins ...string) {
	t.Helper()
	var is series
	within(t, 2*patience, "the figures of queues and of usage are read", func() bool {
		is = series{}
		for _, admin := range admins {
			is.scrape(t, admin)
		}
		used := slices.IndexFunc(is["plinth_used"], func(labels map[string]string) bool { return labels["resource"] == "file_count" })
		return len(is["plinth_queue_depth"]) > 0 && used >= 0
	})
	all, checked := queries(t), 0
	for _, q := range all {
		missing, n := is.lacks(q)
		checked += n
		for _, what := range missing {
			t.Errorf("%s: no process has %s", q.where, what)
		}
	}
	for name := range unseen {
		if len(is[name]) > 0 {
			t.Errorf("%s is there, and need not be excepted", name)
		}
		if !slices.ContainsFunc(all, func(q query) bool { return strings.Contains(q.expr, name) }) {
			t.Errorf("%s is excepted, and nothing names it", name)
		}
	}
	if checked == 0 {
		t.Error("the dashboards and the rules name no metric")
	}
}
