package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"plinth/internal/observe"
)

// secretSettings are the names of the settings that are never shown.
func secretSettings(c *Config) (names []string) {
	for _, s := range c.sections() {
		of := s.fields.Elem().Type()
		for i := range of.NumField() {
			if of.Field(i).Type == reflect.TypeFor[Secret]() {
				names = append(names, s.settingOf(of.Field(i)).name)
			}
		}
	}
	return names
}

// TestMalformedSecrets sets each secret setting to values that are malformed in many ways. Whatever comes of it, an error or a
// service, neither that nor the log has the secret in them.
func TestMalformedSecrets(t *testing.T) {
	t.Parallel()
	canary := "Canary" + rand.Text()
	var values []string
	for _, scheme := range []string{"postgres", "redis", "amqp", "http", "socks5"} {
		for _, rest := range []string{
			"u:%s", "u:%s@", "u:%s@h:port/d", "u:%s@[::1/d", "u:%%zz%s@h/d", "u: %s@h/d", "u:%s@h:99999999/d", "u:%s@h/%%zz", "u:%s\x7f@h/d",
			"u:%s@h:1/d?sslmode=none", "u:%s@h/d?connect_timeout=x", "u:%s@h:1,h:x/d", "h/d?password=%s&sslmode=none", "h/d?password=%s&pool_max_conns=x",
			"h?password=%s&db=x", "h:1/x?password=%s", "h:1?master_name=m&password=%s&protocol=x", "h:1?addr=h:x&password=%s", "%s:u@h:x", "u:%s@h h", "%s@h:port",
			"u:%s@h/d?heartbeat=x&channel_max=x", "u:%s@h/d/e#f", "u:p%s@h@h",
		} {
			values = append(values, scheme+"://"+fmt.Sprintf(rest, canary))
		}
	}
	values = append(values, canary, "://"+canary, "key="+canary+"%zz", canary+"=%zz", "=x,"+canary, "bad key\x00=a"+canary, "k="+canary+"%0a", canary+",,"+canary,
		"user=u password="+canary+" host=h port=x", "plinth_"+canary, " "+canary+"\t")
	file := filepath.Join(t.TempDir(), "log")
	logs, err := observe.NewLogs(observe.LogConfig{Level: "debug", Format: "json", File: file, MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var cfg Config
	names, built := secretSettings(&cfg), map[string]int{}
	for _, name := range []string{"DATABASE_URL", "REDIS_URL", "AMQP_URL", "OUTBOUND_PROXY", "AWS_SECRET_ACCESS_KEY", "OTEL_EXPORTER_OTLP_HEADERS", "SECRET_KEYS", "AUTH_ADMIN_KEY"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is no secret", name)
		}
	}
	for _, name := range names {
		for _, value := range values {
			env := valid()
			if strings.HasPrefix(name, "OTEL_") {
				env["OTEL_EXPORTER_OTLP_ENDPOINT"], env["OTEL_METRICS_EXPORTER"] = "http://127.0.0.1:1", "otlp"
			}
			env["S3_BUCKET"], env["S3_ENDPOINT"], env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"] = "b", "http://127.0.0.1:1", "id", "secret"
			env[name] = value
			cfg, err := ParseConfig(Server, env)
			if err == nil && built[name] < 15 { // Some settings take any text.
				var a *App
				if a, err = build(context.Background(), cfg, logs); err == nil {
					built[name]++
					a.close()
				}
			}
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
				t.Errorf("%s=%q: the error has the secret: %v", name, value, err)
			}
		}
	}
	logs.Close()
	lines, err := os.ReadFile(file)
	if err != nil || len(lines) == 0 || len(built) == 0 {
		t.Errorf("%v services were built, which logged %d bytes (%v)", built, len(lines), err)
	}
	for line := range strings.Lines(string(lines)) {
		if strings.Contains(line, canary) {
			t.Errorf("a line has the secret: %s", line)
		}
	}
}
