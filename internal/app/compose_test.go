package app

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeService is a service of compose.yaml.
type composeService struct {
	Image       string
	Profiles    []string
	NetworkMode string `yaml:"network_mode"`
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	Healthcheck map[string]any
}

// exports returns the variables that a text exports.
func exports(text string) map[string]string {
	all := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(?:#   )?export (.*)$`).FindAllStringSubmatch(text, -1) {
		for _, m := range regexp.MustCompile(`([A-Z0-9_]+)=('[^']*'|"[^"]*"|\S+)`).FindAllStringSubmatch(line[1], -1) {
			all[m[1]] = strings.Trim(m[2], `'"`)
		}
	}
	return all
}

// TestCompose compares compose.yaml with the service: what it says to export is a configuration, which names the ports, users and buckets
// that its servers have, and what it mounts is there.
func TestCompose(t *testing.T) {
	t.Parallel()
	const root = "../../"
	text, err := os.ReadFile(root + "compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]composeService
		Volumes  map[string]any
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var published []string
	for name, s := range file.Services {
		if !regexp.MustCompile(`^[a-z0-9./-]+:v?[0-9][a-z0-9.-]*$`).MatchString(s.Image) {
			t.Errorf("%s: the image is %q, which names no version", name, s.Image)
		}
		if len(s.Profiles) == 0 && s.Healthcheck["test"] == nil {
			t.Errorf("%s: docker compose up --wait does not know whether it is healthy", name)
		}
		for _, port := range s.Ports {
			numbers, found := strings.CutPrefix(port, "127.0.0.1:")
			outside, inside, _ := strings.Cut(numbers, ":")
			if !found || outside != inside {
				t.Errorf("%s publishes %s, which is not its port on the loopback address", name, port)
			}
			published = append(published, "127.0.0.1:"+outside)
		}
		for _, volume := range s.Volumes {
			from, _, _ := strings.Cut(volume, ":")
			_, declared := file.Volumes[from]
			_, missing := os.Stat(filepath.Join(root, from))
			if !declared && (!strings.HasPrefix(from, "./") || missing != nil) {
				t.Errorf("%s mounts %s, which is not there", name, from)
			}
		}
	}

	env := exports(string(text))
	known := settings()
	for name := range env {
		if !slices.ContainsFunc(known, func(s setting) bool { return s.name == name }) {
			t.Errorf("%s is exported, and is no setting", name)
		}
	}
	cfg, err := ParseConfig(Server, env)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"DATABASE_URL", "REDIS_URL", "AMQP_URL", "S3_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		if u, err := url.Parse(env[name]); err != nil || !slices.Contains(published, u.Host) {
			t.Errorf("%s is %q, which no server publishes: %v", name, env[name], published)
		}
	}
	postgres, rabbit, s3 := file.Services["postgres"].Environment, file.Services["rabbitmq"].Environment, file.Services["s3"]
	for what, is := range map[string][2]string{
		"DATABASE_URL": {env["DATABASE_URL"], "postgres://" + postgres["POSTGRES_USER"] + ":" + postgres["POSTGRES_PASSWORD"] + "@127.0.0.1:5432/" + postgres["POSTGRES_DB"] + "?sslmode=disable"},
		"AMQP_URL":     {env["AMQP_URL"], "amqp://" + rabbit["RABBITMQ_DEFAULT_USER"] + ":" + rabbit["RABBITMQ_DEFAULT_PASS"] + "@127.0.0.1:5672/"},
		"key of S3":    {env["AWS_ACCESS_KEY_ID"] + " " + env["AWS_SECRET_ACCESS_KEY"], s3.Environment["ROOT_ACCESS_KEY"] + " " + s3.Environment["ROOT_SECRET_KEY"]},
		"bucket":       {"s3:" + s3.Command[len(s3.Command)-1] + "/" + cfg.S3.Bucket, s3.Volumes[0]},
	} {
		if is[0] != is[1] {
			t.Errorf("%s: %s, and the server has %s", what, is[0], is[1])
		}
	}
	tools, err := os.ReadFile(root + "tools/go.mod")
	if version := s3.Image[strings.LastIndex(s3.Image, ":")+1:]; err != nil || !strings.Contains(string(tools), "versitygw "+version) {
		t.Errorf("S3 is %s, which is not the version of tools/go.mod", s3.Image)
	}
	readme, err := os.ReadFile(root + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "docker compose up --wait\n")
	block, _, _ = strings.Cut(block, "```")
	for name, value := range exports(block) {
		if value != env[name] && name != "AUTH_ADMIN_KEY" {
			t.Errorf("README.md exports %s=%s, and compose.yaml %s", name, value, env[name])
		}
		delete(env, name)
	}
	if delete(env, "OTEL_EXPORTER_OTLP_ENDPOINT"); len(env) > 0 { // Only who has that profile wants it.
		t.Errorf("README.md does not export %v", env)
	}
}

// TestObservingServers compares the servers of the profile observe: Prometheus asks the default of ADMIN_ADDR and reads the rules that
// are mounted, and Grafana asks the addresses that Prometheus and Jaeger have.
func TestObservingServers(t *testing.T) {
	t.Parallel()
	read := func(path string, into any) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(path, err)
		}
		return string(text)
	}
	var prometheus struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	read(deploy+"prometheus/prometheus.yaml", &prometheus)
	if targets := prometheus.ScrapeConfigs[0].StaticConfigs[0].Targets; !slices.Contains(targets, settingNamed("ADMIN_ADDR").fallback) {
		t.Errorf("Prometheus asks %v", targets)
	}
	for _, path := range prometheus.RuleFiles {
		if _, err := os.Stat(deploy + "prometheus/" + filepath.Base(path)); err != nil || filepath.Dir(path) != "/etc/prometheus" {
			t.Errorf("%s: %v", path, err)
		}
	}
	var sources struct {
		Datasources []struct{ UID, URL string }
	}
	read(deploy+"grafana/datasources.yaml", &sources)
	var compose any
	text := read("../../compose.yaml", &compose)
	for _, source := range sources.Datasources {
		if u, err := url.Parse(source.URL); err != nil || !strings.Contains(text, u.Host) {
			t.Errorf("no server of compose.yaml has the address of %s, %s", source.UID, source.URL)
		}
	}
}
