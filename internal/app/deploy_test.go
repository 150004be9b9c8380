package app

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const deploy = "../../deploy/"

var (
	metricName = regexp.MustCompile(`\bplinth_[a-z0-9_]+`)
	suffix     = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// unknownMetrics returns the metrics in a text that no process has.
func unknownMetrics(t *testing.T, text, page string) (unknown []string) {
	t.Helper()
	names := metricName.FindAllString(text, -1)
	if len(names) == 0 {
		t.Error("no metric is named")
	}
	for _, name := range names {
		if !strings.Contains(page, "| `"+name+"` |") && !strings.Contains(page, "| `"+suffix.ReplaceAllString(name, "")+"` | histogram |") {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// TestDashboards parses the dashboards. Every metric that they name is one of the service's, and every domain with metrics of its own has one.
func TestDashboards(t *testing.T) {
	t.Parallel()
	a := built(t, Server)
	page := a.metricsPage()
	files, err := filepath.Glob(deploy + "grafana/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range a.domains {
		if file := filepath.Join(deploy, "grafana", "plinth-"+d.name+".json"); len(d.metrics) > 0 && !slices.Contains(files, file) {
			t.Errorf("%s has no dashboard: %s", d.name, file)
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			UID, Title string
			Panels     []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &dashboard); err != nil || dashboard.UID+".json" != filepath.Base(file) || len(dashboard.Panels) == 0 {
			t.Errorf("%s: %v, %q with %d panels", file, err, dashboard.UID, len(dashboard.Panels))
		}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				if strings.Contains(target.Expr, "plinth_") {
					for _, name := range unknownMetrics(t, target.Expr, page) {
						t.Errorf("%s: %q has %s", file, panel.Title, name)
					}
				}
			}
		}
	}
}

// TestRules reads the alerts: their metrics exist, each has a section in the runbook, and the runbook no others.
func TestRules(t *testing.T) {
	t.Parallel()
	page := built(t, Server).metricsPage()
	text, err := os.ReadFile(deploy + "prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(deploy + "prometheus/rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if strings.Contains(rule.Expr, "plinth_") {
				for _, name := range unknownMetrics(t, rule.Expr, page) {
					t.Errorf("%s has %s", rule.Alert, name)
				}
			}
			if rule.Alert == "" {
				continue
			}
			alerts++
			if !strings.Contains(string(runbook), "\n## "+rule.Alert+"\n") || rule.Annotations["runbook"] != "docs/runbook.md#"+strings.ToLower(rule.Alert) {
				t.Errorf("%s has no section in docs/runbook.md, or %q", rule.Alert, rule.Annotations["runbook"])
			}
			if !regexp.MustCompile(`alertname: ` + rule.Alert + `\b`).Match(tests) {
				t.Errorf("%s has no unit test", rule.Alert)
			}
			if s := rule.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s has the severity %q", rule.Alert, s)
			}
		}
	}
	if sections := strings.Count(string(runbook), "\n## "); sections != alerts || alerts == 0 {
		t.Errorf("%d alerts, and %d sections in docs/runbook.md", alerts, sections)
	}
}

// TestPromtool runs the unit tests of the rules.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing, which Debian has in the package prometheus")
		}
		t.Skip("promtool is missing, which Debian has in the package prometheus")
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = deploy + "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
