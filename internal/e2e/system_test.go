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

// startSystem starts a system. It is ready, and it is stopped with the test.
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

// backends is the configuration of a system on servers of the tests.
func backends(t *testing.T, broker string) map[string]string {
	t.Helper()
	env := map[string]string{
		"AUTH_ADMIN_KEY": adminKey, "ADMIN_ADDR": "", "HTTP_ADDR": "127.0.0.1:0", "SHUTDOWN_TIMEOUT": "5s", "DATABASE_MAX_CONNS": "4",
		"DATABASE_URL": pgtest.New(t), "REDIS_URL": redisURL(t), "BROKER": broker,
	}
	if broker == "rabbitmq" {
		env["AMQP_URL"] = rabbitMQ(t, env["DATABASE_URL"])
	}
	return env
}

// ci says that this is where nothing may be left out.
func ci() bool { return os.Getenv("CI") == "true" }

// missing ends a test that this machine has not got something for.
func missing(t testing.TB, what string) {
	t.Helper()
	if ci() {
		t.Fatal(what)
	}
	t.Skip(what)
}

// tool finds a program.
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

// redisURL is a Redis: database 10 of the one of REDIS_URL or, where CI is true, of 127.0.0.1; else one of the test's own.
func redisURL(t testing.TB) string {
	t.Helper()
	named := os.Getenv("REDIS_URL")
	switch {
	case named == "" && ci():
		named = "redis://127.0.0.1:6379"
	case named == "":
		return "redis://" + miniredis.RunT(t).Addr()
	}
	u, err := url.Parse(named)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/10"
	return u.String()
}

// The queue of the worker's handler, and the name that it has on every broker.
const (
	taskQueue         = "task_queue"
	taskQueueOnBroker = "default." + taskQueue
)

// queueing bounds how long the tests wait for RabbitMQ while those of another process have it. They take about a minute.
const queueing = 3 * time.Minute

// takeRabbitMQ waits until the tests of no other process have RabbitMQ, and has it until the test is over. All systems on one
// RabbitMQ share their queues. It is an exclusive queue that is held.
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

// amqpURL is the RabbitMQ of AMQP_URL, else of 127.0.0.1.
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

// rabbitMQ is the URL of RabbitMQ for the system on a database, in a test that has taken it. None of the system's queues is left
// behind.
func rabbitMQ(t *testing.T, database string) string {
	t.Helper()
	conn := dialRabbitMQ(t)
	if consumers(t, conn, taskQueueOnBroker) > 0 {
		missing(t, "another service uses this RabbitMQ: its worker would handle the messages of the tests")
	}
	deleteQueues(t, conn, taskQueueOnBroker) // A run that was killed may have left it.
	t.Cleanup(func() { deleteQueues(t, conn, queuesOf(t, database)...) })
	return amqpURL()
}

func queuesOf(t testing.TB, database string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(ctx) }()
	rows, err := db.Query(ctx, "SELECT tenant || '.' || name FROM queues")
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

// consumers counts those of a queue, none for a queue that is not there.
func consumers(t testing.TB, conn *amqp091.Connection, queue string) (n int) {
	t.Helper()
	err := onChannel(conn, func(c *amqp091.Channel) error {
		const durable, autoDelete, exclusive, noWait = true, false, false, false
		q, err := c.QueueDeclarePassive(queue, durable, autoDelete, exclusive, noWait, nil)
		n = q.Consumers
		return err
	})
	var reply *amqp091.Error
	if errors.As(err, &reply) && reply.Code == amqp091.NotFound {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func onChannel(conn *amqp091.Connection, op func(*amqp091.Channel) error) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = channel.Close() }()
	return op(channel)
}

// ready waits until a server can serve, and has made the queue of the worker's handler.
func ready(t testing.TB, url string) {
	t.Helper()
	for _, path := range []string{"/readyz", "/api/v1/queues/" + taskQueue} {
		eventually(t, url+path+" answers 200", func() bool { return statusOf(url+path) == http.StatusOK })
	}
}

// statusOf is the HTTP status of a path, asked by the administrator; 0 where nobody answers.
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

// http1 and http2 are clients that speak that version alone, without TLS.
func http1(t testing.TB) *http.Client { return httpClient(t, (*http.Protocols).SetHTTP1) }
func http2(t testing.TB) *http.Client { return httpClient(t, (*http.Protocols).SetUnencryptedHTTP2) }

func httpClient(t testing.TB, allow func(*http.Protocols, bool)) *http.Client {
	protocols := new(http.Protocols)
	allow(protocols, true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: keyed{transport, adminKey}}
}

// adminKey is the administrator's of every system, and the key of a client that is given no other.
var adminKey = auth.NewKey()

// keyed sends a key with each request, unless that has one; an empty one sends none.
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

// grpcClient is a client of a server, over gRPC.
func grpcClient(t testing.TB, url string) messagev1.MessageServiceClient {
	return messagev1.NewMessageServiceClient(http2(t), url, connect.WithGRPC())
}

// newQueue makes a queue.
func newQueue(t testing.TB, client messagev1.MessageServiceClient, name string) {
	t.Helper()
	if _, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
}

// publish publishes texts to a queue and gives their ids.
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

// wantCode checks how a call failed.
func wantCode(t testing.TB, err error, code connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code {
		t.Errorf("got %v, want the code %s", err, code)
	}
}
