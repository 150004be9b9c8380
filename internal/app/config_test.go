package app

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

func valid() map[string]string {
	return map[string]string{
		"DATABASE_URL": "postgres://u:secret@h/d", "REDIS_URL": "redis://:secret@h:6379/0", "AMQP_URL": "amqp://u:secret@h/",
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	env := valid()
	env["SHUTDOWN_TIMEOUT"] = "" // Empty is not set.
	cfg, err := ParseConfig(Server, env)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTP.Addr != ":8080" || cfg.Process.ShutdownTimeout != 30*time.Second || cfg.Broker.Kind != rabbitMQ || cfg.Process.WorkerInline || !cfg.Database.Migrate {
		t.Errorf("%+v", cfg)
	}
	if s := fmt.Sprintf("%v %+v %#v", cfg, cfg, cfg); strings.Contains(s, "secret") {
		t.Error("a printed configuration shows a password")
	}
}

func TestEverythingMissingIsNamed(t *testing.T) {
	t.Parallel()
	_, err := ParseConfig(Server, nil)
	wantProblems(t, err, "AMQP_URL is required", "DATABASE_URL is required", "REDIS_URL is required")
}

func TestEverythingWrongIsNamed(t *testing.T) {
	t.Parallel()
	_, err := ParseConfig(Server, map[string]string{
		"DATABASE_URL": "mysql://u:secret@h/d", "REDIS_URL": "secret", "AMQP_URL": "http://u:secret@h", "S3_ENDPOINT": "h:9000",
		"HTTP_ADDR": "8080", "TLS_CERT_FILE": "cert.pem", "HTTP_REQUEST_TIMEOUT": "soon", "SHUTDOWN_TIMEOUT": "-1s", "WORKER_INLINE": "maybe",
		"DATABASE_MAX_CONNS": "0", "BROKER": "kafka", "AWS_ACCESS_KEY_ID": "id",
		"CORS_ALLOWED_ORIGINS": "https://ok.example.com,https://*.ok.test,http://localhost:*,https://a.test/,app.test,https://*.*.test,ftp://a.test,https://A.test",
		"LOG_LEVEL":            "loud", "LOG_FORMAT": "xml", "LOG_FILE_MAX_SIZE": "0", "LOG_FILE_MAX_BACKUPS": "-1", "LOG_FILE_MAX_AGE": "x",
	})
	wantProblems(t, err,
		"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together", "AMQP_URL is not a URL", `BROKER is "kafka"; it takes rabbitmq, postgres`,
		`CORS_ALLOWED_ORIGINS has "https://a.test/"`, `CORS_ALLOWED_ORIGINS has "app.test"`, `CORS_ALLOWED_ORIGINS has "https://*.*.test"`,
		`CORS_ALLOWED_ORIGINS has "ftp://a.test"`, `CORS_ALLOWED_ORIGINS has "https://A.test"`,
		"DATABASE_MAX_CONNS must be at least 3", "DATABASE_URL is not a URL", `HTTP_ADDR is "8080"`,
		`HTTP_REQUEST_TIMEOUT is "soon"; it takes a duration`, `LOG_FILE_MAX_AGE is "x"; it takes a whole number`,
		"LOG_FILE_MAX_BACKUPS must not", "LOG_FILE_MAX_SIZE must be", `LOG_FORMAT is "xml"`, `LOG_LEVEL is "loud"`, "REDIS_URL is not a Redis URL",
		"S3_ENDPOINT is not a URL", "SHUTDOWN_TIMEOUT must be more", "TLS_CERT_FILE and TLS_KEY_FILE go together", `WORKER_INLINE is "maybe"; it takes true or false`)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the message shows a password: %v", err)
	}
}

// wantProblems wants each problem once, and no other.
func wantProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	var config *ConfigError
	if !errors.As(err, &config) {
		t.Fatalf("%v", err)
	}
	for _, w := range want {
		if strings.Count(err.Error(), "\n  "+w) != 1 {
			t.Errorf("not named once: %s", w)
		}
	}
	if len(config.Problems) != len(want) {
		t.Errorf("%d problems, want %d:\n%v", len(config.Problems), len(want), err)
	}
}

func TestPostgresBrokerNeedsNoRabbitMQ(t *testing.T) {
	t.Parallel()
	env := maps.Clone(valid())
	delete(env, "AMQP_URL")
	env["BROKER"] = "postgres"
	if _, err := ParseConfig(Worker, env); err != nil {
		t.Error(err)
	}
}

func TestHelpAndPageNameEverySetting(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	help(&text, Server)
	for _, s := range settings() {
		if s.help == "" {
			t.Errorf("%s has no help", s.name)
		}
		if !strings.Contains(text.String(), "\n"+s.name+" ") || !strings.Contains(text.String(), s.help) {
			t.Errorf("-help does not name %s", s.name)
		}
	}
	const page = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(page, []byte(configurationPage()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != configurationPage() {
		t.Errorf("docs/configuration.md is not current (%v): go test ./internal/app -run Page -update", err)
	}
}
