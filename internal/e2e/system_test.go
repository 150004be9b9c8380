package e2e

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	amqp091 "github.com/rabbitmq/amqp091-go"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/auth"
	"plinth/internal/pg/pgtest"
)

// system is the service as it is deployed: a server and a worker.
type system struct {
	env            map[string]string
	server, worker *process
	url            string
}

// startSystem starts a system and waits until it is ready. It stops with the test.
func startSystem(t *testing.T, env map[string]string) *system {
	t.Helper()
	s := &system{env: with(env, map[string]string{
		"CORS_ALLOWED_ORIGINS": "https://app.example.com", "MESSAGE_MAX_QUEUES": "3000",
	})}
	s.server, s.worker = start(t, "server", s.env), start(t, "worker", s.env)
	t.Cleanup(func() {
		s.server.stop(t)
		s.worker.stop(t)
	})
	s.url = "http://" + s.server.address(t)
	ready(t, s.url)
	return s
}

// plain reports whether a system has nothing but PostgreSQL, and no pooler before that.
func (s *system) plain() bool {
	return s.env["BROKER"] == "postgres" && s.env["DATABASE_DIRECT_URL"] == ""
}

// backends returns the configuration of a system on servers of the tests.
func backends(t *testing.T, broker string) map[string]string {
	t.Helper()
	env := map[string]string{
		"AUTH_ADMIN_KEY": adminKey, "ADMIN_ADDR": "", "HTTP_ADDR": "127.0.0.1:0", "SHUTDOWN_TIMEOUT": "20s", "DATABASE_MAX_CONNS": "4",
		"DATABASE_URL": pgtest.New(t), "REDIS_URL": redisURL(t, broker), "BROKER": broker,
		"CACHE_REPLY_TIMEOUT": patience.String(), "CHANNEL_REPLY_TIMEOUT": patience.String(), // Redis is slow beside the other tests.
	}
	if broker == "rabbitmq" {
		env["AMQP_URL"] = rabbitMQ(t, env["DATABASE_URL"])
	}
	return env
}

// ci reports whether CI is true, which means that no test may be skipped.
func ci() bool { return os.Getenv("CI") == "true" }

// missing skips a test because something is missing on this machine, or fails it if CI is true.
func missing(t testing.TB, what string) {
	t.Helper()
	if ci() {
		t.Fatal(what)
	}
	t.Skip(what)
}

// tool returns the path of a program.
func tool(t testing.TB, name string, places ...string) string {
	t.Helper()
	for _, place := range append([]string{name}, places...) {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	missing(t, name+" is not installed")
	return ""
}

// redisURL returns the URL of a Redis: database 10 or 11, by the broker, of the one of REDIS_URL or, if CI is true, of 127.0.0.1; else one
// of the test's own. What is tried with each broker is tried at the same time, with the same names.
func redisURL(t testing.TB, broker string) string {
	t.Helper()
	named := os.Getenv("REDIS_URL")
	switch {
	case named == "" && ci():
		named = "redis://127.0.0.1:6379"
	case named == "":
		server := miniredis.RunT(t)
		passing, stop := time.NewTicker(100*time.Millisecond), make(chan struct{}) // Its keys expire only as it is told that time passes.
		t.Cleanup(func() { passing.Stop(); close(stop) })
		go func() {
			for {
				select {
				case <-passing.C:
					server.FastForward(100 * time.Millisecond)
				case <-stop:
					return
				}
			}
		}()
		return "redis://" + server.Addr()
	}
	u, err := url.Parse(named)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/10"
	if broker == "rabbitmq" {
		u.Path = "/11"
	}
	return u.String()
}

// taskQueue is the queue of the worker's handler.
const taskQueue = "task_queue"

// queueing bounds how long the tests wait for RabbitMQ while those of another process hold it. They take about a minute.
const queueing = 3 * time.Minute

// takeRabbitMQ waits until no tests of another process hold RabbitMQ, and holds it until the test ends, because they would take its
// time from each other. The lock is an exclusive queue.
func takeRabbitMQ(t *testing.T) {
	t.Helper()
	conn := dialRabbitMQ(t)
	const durable, autoDelete, exclusive, noWait = false, false, true, false
	for deadline := time.Now().Add(queueing); ; <-time.After(200 * time.Millisecond) {
		err := onChannel(conn, func(c *amqp091.Channel) error {
			_, err := c.QueueDeclare("plinth-e2e", durable, autoDelete, exclusive, noWait, nil)
			return err
		})
		var reply *amqp091.Error
		if err == nil {
			return
		} else if !errors.As(err, &reply) || reply.Code != amqp091.ResourceLocked {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for RabbitMQ, which the tests of another process have: they hold the queue plinth-e2e", queueing)
		}
	}
}

// amqpURL returns AMQP_URL, else the URL of the RabbitMQ on 127.0.0.1.
func amqpURL() string { return cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@127.0.0.1:5672/") }

func dialRabbitMQ(t *testing.T) *amqp091.Connection {
	t.Helper()
	conn, err := amqp091.Dial(amqpURL())
	if err != nil {
		missing(t, "RabbitMQ does not answer: "+err.Error())
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// rabbitMQ returns the URL of RabbitMQ for the system on a database, in a test that holds it. It deletes the system's queues
// when the test ends.
func rabbitMQ(t *testing.T, database string) string {
	t.Helper()
	conn := dialRabbitMQ(t)
	t.Cleanup(func() { deleteQueues(t, conn, queuesOf(t, database)...) })
	return amqpURL()
}

// queuesOf returns the names that the queues of a system have on RabbitMQ.
func queuesOf(t testing.TB, database string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(ctx) }()
	rows, err := db.Query(ctx, `SELECT tenant || '.' || name || '@' ||
		translate(rtrim(encode(decode(replace(id::text, '-', ''), 'hex'), 'base64'), '='), '+/', '-_') FROM queues, identities`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// deleteQueues deletes queues that nobody uses.
func deleteQueues(t testing.TB, conn *amqp091.Connection, names ...string) {
	t.Helper()
	for _, name := range names {
		err := onChannel(conn, func(c *amqp091.Channel) error {
			const ifUnused, ifEmpty, noWait = false, false, false
			_, err := c.QueueDelete(name, ifUnused, ifEmpty, noWait)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func onChannel(conn *amqp091.Connection, op func(*amqp091.Channel) error) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = channel.Close() }()
	return op(channel)
}

// ready waits until a server is ready, and has created the queue of the worker's handler.
func ready(t testing.TB, url string) {
	t.Helper()
	for _, path := range []string{"/readyz", "/api/v1/queues/" + taskQueue} {
		eventually(t, url+path+" answers 200", func() bool { return statusOf(url+path) == http.StatusOK })
	}
}

// statusOf returns the HTTP status of a URL for the administrator, 0 if nobody answers.
func statusOf(url string) int {
	client := http.Client{Timeout: patience, Transport: keyed{&http.Transport{}, adminKey}}
	defer client.CloseIdleConnections()
	res, err := client.Get(url)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// http1 and http2 return clients that speak only that version, without TLS.
func http1(t testing.TB) *http.Client { return httpClient(t, (*http.Protocols).SetHTTP1) }
func http2(t testing.TB) *http.Client { return httpClient(t, (*http.Protocols).SetUnencryptedHTTP2) }

func httpClient(t testing.TB, allow func(*http.Protocols, bool)) *http.Client {
	protocols := new(http.Protocols)
	allow(protocols, true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: keyed{transport, adminKey}}
}

// adminKey is the administrator's key of every system. Clients use it unless they have another.
var adminKey = auth.NewKey()

// keyed is a transport that sends a key with each request that has none. An empty key is not sent.
type keyed struct {
	*http.Transport
	key string
}

func (k keyed) RoundTrip(req *http.Request) (*http.Response, error) {
	if k.key != "" && req.Header.Get("Authorization") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+k.key)
	}
	return k.Transport.RoundTrip(req)
}

// grpcClient returns a client of a server, over gRPC.
func grpcClient(t testing.TB, url string) messagev1.MessageServiceClient {
	return messagev1.NewMessageServiceClient(http2(t), url, connect.WithGRPC())
}

// newQueue creates a queue.
func newQueue(t testing.TB, client messagev1.MessageServiceClient, name string) {
	t.Helper()
	if _, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
}

// publish publishes texts to a queue, and returns their ids.
func publish(t testing.TB, client messagev1.MessageServiceClient, queue string, texts ...string) (ids []string) {
	t.Helper()
	for _, text := range texts {
		res, err := client.Publish(t.Context(), &messagev1.PublishRequest{Queue: queue, Payload: &messagev1.PublishRequest_Message{Message: text}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.GetId())
	}
	return ids
}

// wantCode checks that a call failed with a code.
func wantCode(t testing.TB, err error, code connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code {
		t.Errorf("got %v, want the code %s", err, code)
	}
}
