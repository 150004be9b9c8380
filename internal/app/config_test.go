package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/broker/amqp"
	"plinth/internal/kv"
	"plinth/internal/pg"
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
	env["SHUTDOWN_TIMEOUT"] = "" // Empty means not set.
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

// TestBlanks has values with the newline that a mounted secret ends with, and lists with blanks.
func TestBlanks(t *testing.T) {
	t.Parallel()
	key := auth.NewKey()
	cfg, err := ParseConfig(Server, map[string]string{
		"DATABASE_URL": "postgres://u:secret@h/d\n", "REDIS_URL": "redis://:secret@h:6379/0\r\n", "AMQP_URL": "amqp://u:secret@h/\n",
		"AUTH_ADMIN_KEY": key + "\n", "SHUTDOWN_TIMEOUT": "7s\n", "AWS_SECRET_ACCESS_KEY": " with blanks \n", "AWS_ACCESS_KEY_ID": "id",
		"HTTP_MAX_CALLS": "\n", "CORS_ALLOWED_ORIGINS": "https://a.test, https://b.test ,,",
		"RATE_LIMIT_METHODS": "plinth.message.v1.MessageService/Publish=100/s, plinth.message.v1.MessageService/GetQueue=5/s",
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Database.URL != "postgres://u:secret@h/d" || cfg.Redis.URL != "redis://:secret@h:6379/0" || cfg.Broker.AMQPURL != "amqp://u:secret@h/" ||
		cfg.Auth.AdminKey != Secret(key) || cfg.Process.ShutdownTimeout != 7*time.Second || cfg.S3.SecretAccessKey != " with blanks " ||
		cfg.HTTP.MaxCalls != 2048 || !slices.Equal(cfg.HTTP.AllowedOrigins, []string{"https://a.test", "https://b.test"}) {
		t.Errorf("%q %q %+v", cfg.Database.URL, cfg.HTTP.AllowedOrigins, cfg)
	}
	if rates, err := methodRates(cfg.RateLimit.Methods); err != nil || len(rates) != 2 {
		t.Errorf("%v, %v", rates, err)
	}
}

// TestPasswordsWithAnAt has passwords that are not percent-encoded as they should be. Neither the message about them nor that of
// a connection which fails shows a part of one.
func TestPasswordsWithAnAt(t *testing.T) {
	t.Parallel()
	const before, after = "sesame", "street"
	for _, password := range []string{
		before + "@" + after, before + "/@" + after, before + "?@" + after, before + "#@" + after, before + "@" + after + "/x",
		before + "@" + after + "?x", before + "@" + after + "#x", "12@" + after + "/" + before, before + ":@" + after, before + "%@" + after,
		before + "@@" + after, "@" + after + before, before + " @" + after,
	} {
		env := valid()
		for name, scheme := range map[string]string{"DATABASE_URL": "postgres", "DATABASE_DIRECT_URL": "postgres", "REDIS_URL": "redis", "AMQP_URL": "amqp", "AUTH_JWT_ISSUER": "https"} {
			env[name] = scheme + "://user:" + password + "@127.0.0.1:1/1"
		}
		env["AUTH_JWT_AUDIENCE"] = "a"
		said := ""
		cfg, err := ParseConfig(Server, env)
		if err != nil {
			said = err.Error()
		} else {
			said = connectionErrors(t, cfg)
		}
		if strings.Contains(said, before) || strings.Contains(said, after) {
			t.Errorf("%s: a part of it is shown: %s", password, said)
		}
	}
	env := valid()
	env["DATABASE_URL"] = "postgres://user:a/b@127.0.0.1:1/d"
	env["REDIS_URL"] = "redis://h:6379?password=a@b"
	_, err := ParseConfig(Server, env)
	wantProblems(t, err, "DATABASE_URL has an @ that is not the one before its host: in a user, a password or a parameter, @ / ? and # are written %40",
		"REDIS_URL has an @ that is not the one before its host")
}

// The page of the console tells everybody where to sign in, and its policy names that origin.
func TestConsoleClient(t *testing.T) {
	t.Parallel()
	env := valid()
	env["AUTH_CONSOLE_CLIENT_ID"] = "console"
	_, err := ParseConfig(Server, env)
	wantProblems(t, err, "AUTH_CONSOLE_CLIENT_ID is a client of AUTH_JWT_ISSUER: set that, too")
	env["AUTH_JWT_AUDIENCE"], env["AUTH_CONSOLE_SCOPES"] = "plinth", "openid-not email"
	for _, issuer := range []string{"https://a;script-src", "https://*", "https://[::1]", "https://"} {
		env["AUTH_JWT_ISSUER"] = issuer
		_, err = ParseConfig(Server, env)
		wantProblems(t, err, "AUTH_JWT_ISSUER must have a host of a-z, 0-9, dots and -", `AUTH_CONSOLE_SCOPES is "openid-not email"; it must have openid`)
	}
	env["AUTH_JWT_ISSUER"], env["AUTH_CONSOLE_SCOPES"] = "https://id.example.com:8443/realms/a", "openid offline_access"
	if _, err := ParseConfig(Server, env); err != nil {
		t.Error(err)
	}
}

// The issuer is in the log and, with AUTH_CONSOLE_CLIENT_ID, in a page for everybody, so it has no password.
func TestIssuerWithAUser(t *testing.T) {
	t.Parallel()
	env := valid()
	env["AUTH_JWT_ISSUER"], env["AUTH_JWT_AUDIENCE"] = "https://user:sesame@id.example.com", "plinth"
	for _, client := range []string{"", "console"} {
		env["AUTH_CONSOLE_CLIENT_ID"] = client
		_, err := ParseConfig(Server, env)
		wantProblems(t, err, "AUTH_JWT_ISSUER has a user; it takes a URL")
	}
}

// connectionErrors returns what is said where nobody answers at the URLs.
func connectionErrors(t *testing.T, cfg Config) string {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	db, err := pg.Open(ctx, pg.Config{URL: string(cfg.Database.URL)})
	said := fmt.Sprint(err)
	if err == nil {
		defer db.Close()
		said += fmt.Sprint(db.Writable(ctx))
	}
	client, err := kv.Open(string(cfg.Redis.URL))
	if said += fmt.Sprint(err); err == nil {
		said += fmt.Sprint(client.Ping(ctx).Err(), client.Close())
	}
	rabbit, err := amqp.New(string(cfg.Broker.AMQPURL), zap.New(core))
	if said += fmt.Sprint(err); err == nil {
		running, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = rabbit.Run(running) }()
		for logs.FilterMessageSnippet("no connection").Len() == 0 && ctx.Err() == nil {
			<-time.After(time.Millisecond)
		}
		stop()
		<-ended
	}
	for _, line := range logs.All() {
		said += fmt.Sprint(line.Message, line.ContextMap())
	}
	return said
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
		"OTEL_TRACES_SAMPLER_ARG": "0,5",
	})
	wantProblems(t, err,
		"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together", "AMQP_URL is not a URL", `BROKER is "kafka"; it takes rabbitmq, postgres`,
		`CORS_ALLOWED_ORIGINS has "https://a.test/"`, `CORS_ALLOWED_ORIGINS has "app.test"`, `CORS_ALLOWED_ORIGINS has "https://*.*.test"`,
		`CORS_ALLOWED_ORIGINS has "ftp://a.test"`, `CORS_ALLOWED_ORIGINS has "https://A.test"`,
		"DATABASE_MAX_CONNS must be at least 3", "DATABASE_URL is not a URL", `HTTP_ADDR is "8080"`,
		`HTTP_REQUEST_TIMEOUT is "soon"; it takes a duration`, `LOG_FILE_MAX_AGE is "x"; it takes a whole number`,
		"LOG_FILE_MAX_BACKUPS must not", "LOG_FILE_MAX_SIZE must be", `LOG_FORMAT is "xml"`, `LOG_LEVEL is "loud"`,
		`OTEL_TRACES_SAMPLER_ARG is "0,5"; it takes a number such as 0.25`, "REDIS_URL is not a Redis URL",
		"S3_ENDPOINT is not a URL", "SHUTDOWN_TIMEOUT must be more", "TLS_CERT_FILE and TLS_KEY_FILE go together", `WORKER_INLINE is "maybe"; it takes true or false`)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the message shows a password: %v", err)
	}
}

// wantProblems checks that err names each problem once, and no others.
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
