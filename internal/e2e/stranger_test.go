package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"plinth/internal/blob/blobtest"
	"plinth/internal/observe/observetest"
)

// TestStrangers starts servers whose backends are not there, and whose backends know no such password. Neither the log nor a page
// has any of the passwords, keys and headers.
func TestStrangers(t *testing.T) {
	t.Parallel()
	t.Run("away", func(t *testing.T) {
		t.Parallel()
		a := &aviary{T: t}
		a.stranger(map[string]string{
			"DATABASE_URL": "postgres://user@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1", "AMQP_URL": "amqp://user@127.0.0.1:1/",
			"S3_ENDPOINT": "http://127.0.0.1:1", "S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "id",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user@127.0.0.1:1",
		})
	})
	t.Run("refusing", func(t *testing.T) {
		t.Parallel()
		dialRabbitMQ(t)
		a, bucket, collector := &aviary{T: t}, blobtest.New(t), observetest.New(t)
		collector.Refuse(true)
		a.stranger(with(bucket.Env(), map[string]string{
			"DATABASE_URL": refusingPostgres(t), "REDIS_URL": strings.Replace(redisURL(t, "rabbitmq"), "://", "://nobody@", 1), "AMQP_URL": amqpURL(),
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.URL, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": collector.MetricsURL,
		}))
	})
}

// stranger runs a server on backends, with secrets of its own for each, until it has seen that it can use none.
func (a *aviary) stranger(env map[string]string) {
	for _, name := range []string{"DATABASE_URL", "REDIS_URL", "AMQP_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		u, err := url.Parse(env[name])
		if err != nil {
			a.Fatal(err)
		}
		if env[name] != "" {
			u.User = url.UserPassword(u.User.Username(), a.secret("password of "+name))
			env[name] = u.String()
		}
	}
	keys := make([]byte, 32)
	_, _ = rand.Read(keys)
	a.add("key of the secrets", base64.StdEncoding.EncodeToString(keys))
	p := start(a, "server", with(env, map[string]string{
		"HTTP_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "AUTH_ADMIN_KEY": adminKey, "LOG_LEVEL": "debug", "WORKER_INLINE": "true", "SHUTDOWN_TIMEOUT": "20s",
		"BROKER": "rabbitmq", "AWS_SECRET_ACCESS_KEY": a.secret("secret of the bucket"), "SECRET_KEYS": base64.StdEncoding.EncodeToString(keys),
		"OUTBOUND_PROXY":        "http://user:" + a.secret("password of the proxy") + "@127.0.0.1:1",
		"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=" + a.secret("header of exports"),
		// What OpenTelemetry's SDK reads by itself.
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS": a.secret("header of exports of traces, malformed"), "OTEL_EXPORTER_OTLP_METRICS_HEADERS": a.secret("likewise, of metrics"),
	}))
	base := "http://" + p.address(a)
	for _, check := range []string{"postgres", "redis", "rabbitmq", "s3"} {
		p.says(a, `backend is unavailable.*"`+check+`"`)
	}
	a.search("/health", string(bodyOf(base+"/health")))
	res, err := httpClient(a, (*http.Protocols).SetHTTP1).Get(base + "/api/v1/queues")
	if err != nil {
		a.Fatal(err)
	}
	reply, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	a.search("the error of a call", string(reply))
	for _, path := range []string{"/metrics", "/debug/state", "/debug/traces", "/"} {
		page := bodyOf(p.admin(a) + path)
		if len(page) == 0 {
			a.Errorf("%s is empty", path)
		}
		a.search(path, string(page))
	}
	for _, says := range []string{"metrics are lost", "traces are lost", "OpenTelemetry does not understand"} {
		p.says(a, says)
	}
	p.stop(a)
	lines, _ := p.log.from(0)
	for _, line := range lines {
		a.search("a line", line)
	}
}

// refusingPostgres returns the URL of a PostgreSQL that takes no password.
func refusingPostgres(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				b := pgproto3.NewBackend(conn, conn)
				if _, err := b.ReceiveStartupMessage(); err != nil {
					return
				}
				b.Send(&pgproto3.AuthenticationCleartextPassword{})
				if b.Flush() != nil || b.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
					return
				}
				if _, err := b.Receive(); err != nil {
					return
				}
				b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed"})
				_ = b.Flush()
			}()
		}
	}()
	return "postgres://user@" + listener.Addr().String() + "/d?sslmode=disable"
}
