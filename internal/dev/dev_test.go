package dev

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

func mustStart(t *testing.T, env map[string]string) *Backends {
	t.Helper()
	b, err := Start(t.Context(), env, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestStartCompletesTheEnvironment(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	b := mustStart(t, machine(map[string]string{
		"DATA_DIR": dir, "LOG_FORMAT": "json", "AWS_SECRET_ACCESS_KEY": "a real one", "AWS_PROFILE": "work", "UNRELATED": "kept",
		"PATH": filepath.Dir(mustFindPostgres(t)), // without go: S3 stays off
	}))
	env := b.Env()
	for name, want := range map[string]string{
		"DATABASE_URL": b.postgres.URL(), "BROKER": "postgres", "S3_BUCKET": "plinth", "S3_FORCE_PATH_STYLE": "true",
		"AWS_REGION": "us-east-1", "HTTP_ADDR": "127.0.0.1:8080", "WORKER_INLINE": "true", "MESSAGE_AUTO_CREATE_QUEUES": "true",
		"LOG_FORMAT": "json", "SHUTDOWN_TIMEOUT": "1s", "DATA_DIR": dir, "AWS_PROFILE": "", "UNRELATED": "kept",
	} {
		if env[name] != want {
			t.Errorf("%s is %q", name, env[name])
		}
	}
	secret := env["AWS_SECRET_ACCESS_KEY"]
	if len(secret) < 20 || env["AWS_ACCESS_KEY_ID"] == "" || secret == "a real one" {
		t.Errorf("the key of the private S3 is %q", secret)
	}
	for _, name := range []string{"postgres.url", "s3.credentials"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	var banner bytes.Buffer
	b.Banner(&banner)
	contains(t, banner.String(), "127.0.0.1:8080/api/v1/message", "127.0.0.1:8080/health", env["S3_ENDPOINT"], env["REDIS_URL"],
		`psql "$(cat `+dir+`/postgres.url)"`, dir+"/s3", dir+"/postgres")
	b.Close() // closed again when the test ends, which does no harm
	password, err := os.ReadFile(filepath.Join(dir, "postgres", "password"))
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{string(password), secret, env["AWS_ACCESS_KEY_ID"]} {
		if strings.Contains(banner.String(), hidden) {
			t.Errorf("the banner shows %s", hidden)
		}
	}
}

func mustFindPostgres(t *testing.T) string {
	t.Helper()
	bin, err := findBinaries(machine(nil), installFolders())
	if err != nil || bin == "" {
		t.Fatalf("no PostgreSQL: %v", err)
	}
	return filepath.Join(bin, "postgres")
}

func TestNamedBackendsAreUsed(t *testing.T) {
	t.Parallel()
	named := map[string]string{
		"DATABASE_URL": "postgres://u:hush@db/x", "REDIS_URL": "redis://:hush@cache", "AMQP_URL": "amqp://u:hush@rabbit",
		"S3_ENDPOINT": "https://s3.example.com", "AWS_SECRET_ACCESS_KEY": "hush", "HTTP_ADDR": ":9000", "DATA_DIR": dataDir(t),
	}
	b := mustStart(t, machine(named))
	env := b.Env()
	for name, value := range named {
		if env[name] != value {
			t.Errorf("%s became %q", name, env[name])
		}
	}
	if env["BROKER"] != "rabbitmq" || b.postgres != nil || b.redis != nil || b.s3 != nil {
		t.Errorf("BROKER is %s, %+v", env["BROKER"], b)
	}
	var banner bytes.Buffer
	b.Banner(&banner)
	contains(t, banner.String(), "localhost:9000/health", `psql "$DATABASE_URL"`, "RabbitMQ")
	if strings.Contains(banner.String(), "hush") {
		t.Errorf("the banner shows a password: %s", banner.String())
	}
	b.Close()
	named["BROKER"] = "postgres"
	if broker := mustStart(t, machine(named)).Env()["BROKER"]; broker != "postgres" {
		t.Errorf("BROKER became %s", broker)
	}
}

func TestTimePassesInRedis(t *testing.T) {
	t.Parallel()
	r, err := startRedis()
	if err != nil {
		t.Fatal(err)
	}
	options, err := goredis.ParseURL(r.url())
	if err != nil {
		t.Fatal(err)
	}
	client := goredis.NewClient(options)
	defer func() { _ = client.Close() }()
	const life = 300 * time.Millisecond
	set := time.Now()
	if err := client.Set(t.Context(), "key", "value", life).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key has expired", patience, func() bool { return client.Exists(t.Context(), "key").Val() == 0 })
	if lived := time.Since(set); lived < life-3*redisTick {
		t.Errorf("it lived %s", lived)
	}
	r.close()
	if err := client.Ping(t.Context()).Err(); err == nil {
		t.Error("it answers after its end")
	}
}
