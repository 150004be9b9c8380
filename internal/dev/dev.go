package dev

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// Backends are what the service runs on: the servers that the environment names, and private ones for the rest.
type Backends struct {
	env      map[string]string
	dir      string // DATA_DIR as it was given
	lock     *os.File
	postgres *Postgres // nil when DATABASE_URL names one; likewise the others
	redis    *redis
	s3       *s3
}

// Start starts a private server for each of DATABASE_URL, REDIS_URL and S3_ENDPOINT that env does not set. It returns when
// PostgreSQL and Redis can be used; S3 may come minutes later, as its first start builds it. env is the environment of the
// process, in which DATA_DIR (default .plinth) is the folder for all data; out gets lines for a person, now and later. ctx
// only bounds the start. An error is one line that states what to do.
func Start(ctx context.Context, env map[string]string, out io.Writer) (*Backends, error) {
	b := &Backends{env: maps.Clone(env), dir: cmp.Or(env["DATA_DIR"], ".plinth")}
	if err := b.start(ctx, &lockedWriter{w: out}); err != nil {
		b.Close()
		return nil, explain(b.dir, err)
	}
	b.complete()
	return b, nil
}

func (b *Backends) start(ctx context.Context, out io.Writer) error {
	dir, err := canonical(b.dir)
	if err != nil {
		return err
	}
	if b.lock, err = lockFolder(dir); err != nil {
		return err
	}
	if b.env["S3_ENDPOINT"] == "" {
		bucket, region := cmp.Or(b.env["S3_BUCKET"], defaultBucket), cmp.Or(b.env["AWS_REGION"], defaultRegion)
		if b.s3, err = startS3(dir, b.env, bucket, region, out); err != nil {
			return err
		}
	}
	if b.env["REDIS_URL"] == "" {
		if b.redis, err = startRedis(); err != nil {
			return err
		}
	}
	if b.env["DATABASE_URL"] == "" {
		if b.postgres, err = startPostgres(ctx, dir, b.env, out); err != nil {
			return err
		}
	}
	return nil
}

const (
	defaultAddr   = "127.0.0.1:8080"
	defaultBucket = "plinth"
	defaultRegion = "us-east-1"
)

// complete adds to env what it does not set. The key of the private S3 replaces any other: a private server must not get
// real credentials.
func (b *Backends) complete() {
	env := maps.Clone(b.env) // S3 may still read the one that it was given
	defaults := map[string]string{
		"BROKER":                     "postgres",
		"S3_BUCKET":                  defaultBucket,
		"S3_FORCE_PATH_STYLE":        "true",
		"AWS_REGION":                 defaultRegion,
		"HTTP_ADDR":                  defaultAddr,
		"AUTH_MODE":                  "off",
		"WORKER_INLINE":              "true",
		"MESSAGE_AUTO_CREATE_QUEUES": "true",
		"LOG_FORMAT":                 "console",
		"SHUTDOWN_TIMEOUT":           "1s",
		"DATA_DIR":                   b.dir,
	}
	if env["AMQP_URL"] != "" {
		defaults["BROKER"] = "rabbitmq"
	}
	if b.postgres != nil {
		defaults["DATABASE_URL"] = b.postgres.URL()
	}
	if b.redis != nil {
		defaults["REDIS_URL"] = b.redis.url()
	}
	if b.s3 != nil {
		defaults["S3_ENDPOINT"] = b.s3.endpoint()
		env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"] = b.s3.accessKey, b.s3.secretKey
		delete(env, "AWS_SESSION_TOKEN")
		delete(env, "AWS_PROFILE")
	}
	for name, value := range defaults {
		env[name] = cmp.Or(env[name], value)
	}
	b.env = env
}

// Env returns the environment that was passed to Start, and in addition what the service needs to run on the backends.
func (b *Backends) Env() map[string]string { return maps.Clone(b.env) }

// Close stops the private servers, within a second, and releases DATA_DIR.
func (b *Backends) Close() {
	var stopping sync.WaitGroup
	if b.postgres != nil {
		stopping.Go(b.postgres.stop)
	}
	if b.s3 != nil {
		stopping.Go(b.s3.close)
	}
	stopping.Wait()
	if b.redis != nil {
		b.redis.close()
	}
	if b.lock != nil {
		_ = b.lock.Close()
	}
}

// Banner writes where everything is and what to try, without any secret.
func (b *Backends) Banner(w io.Writer) {
	postgres, redis, s3, broker := "named by DATABASE_URL", "named by REDIS_URL", "named by S3_ENDPOINT", "PostgreSQL"
	psql := `psql "$DATABASE_URL"`
	if b.postgres != nil {
		postgres = "private, data in " + filepath.Join(b.dir, "postgres")
		psql = fmt.Sprintf(`psql "$(cat %s)"`, filepath.Join(b.dir, "postgres.url"))
	}
	if b.redis != nil {
		redis = "private, in memory, " + b.redis.url()
	}
	if b.s3 != nil {
		s3 = fmt.Sprintf("private, data in %s, %s", filepath.Join(b.dir, "s3"), b.s3.endpoint())
	}
	if b.env["BROKER"] == "rabbitmq" {
		broker = "RabbitMQ, named by AMQP_URL"
	}
	address := reachable(b.env["HTTP_ADDR"])
	fmt.Fprintf(w, `
Plinth runs on http://%[1]s; Ctrl-C ends it.

  PostgreSQL  %[2]s
  Redis       %[3]s
  S3          %[4]s
  broker      %[5]s

Try:
  curl -d '{"queue":"task_queue","message":"hello"}' -H 'Content-Type: application/json' %[1]s/api/v1/message
  curl %[1]s/health
  %[6]s

`, address, postgres, redis, s3, broker, psql)
}

// reachable returns the address to connect to for an address that a server listens on, which may mean every interface.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return addr
}

// lockedWriter lets the parts of the start write their lines whole.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
