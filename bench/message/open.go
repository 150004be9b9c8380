package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/broker/amqp"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// bench has everything open that the contests need: the baseline's own connection, the service as a Go program uses it, and
// a server process.
type bench struct {
	conn     *amqp091.Connection
	rawQueue string

	db       *pg.DB
	adapter  broker.Broker // by names as they are on RabbitMQ
	broker   broker.Broker // with those of the database's own, as the server uses it
	service  *message.Service
	log      *zap.Logger
	queue    message.QueueName
	onBroker string
	postgres carrier

	http   *http.Client
	server *server

	closers []func()
}

func (b *bench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

func open(ctx context.Context) (_ *bench, err error) {
	b := &bench{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	amqpURL := cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@127.0.0.1:5672/")
	db, databaseURL, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	b.db = db
	if err := b.raw(amqpURL); err != nil {
		return nil, err
	}
	if err := b.inProcess(ctx, amqpURL, databaseURL); err != nil {
		return nil, err
	}
	if b.postgres, err = b.onPostgres(ctx); err != nil {
		return nil, err
	}
	if b.server, err = startServer(amqpURL, databaseURL); err != nil {
		return nil, err
	}
	b.closers = append(b.closers, b.server.stop)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	b.http = &http.Client{Transport: keyed{&http.Transport{Protocols: &protocols}, "Bearer " + b.server.key}}
	return b, nil
}

// keyed sends the key with each request.
type keyed struct {
	http.RoundTripper
	header string
}

func (k keyed) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", k.header) // The request is used only here, so it may be changed.
	return k.RoundTripper.RoundTrip(req)
}

// database creates a database that only this run uses.
func (b *bench) database(ctx context.Context) (db *pg.DB, databaseURL string, err error) {
	databaseURL, drop, err := scratch.Database(ctx)
	if err != nil {
		return nil, "", err
	}
	b.closers = append(b.closers, func() { _ = drop() })
	owner, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil, "", err
	}
	_, err = owner.Exec(ctx, `CREATE TABLE bench_effects (id uuid); GRANT INSERT ON bench_effects TO plinth_app`)
	_ = owner.Close(ctx)
	if err != nil {
		return nil, "", err
	}
	if db, err = pg.Open(ctx, pg.Config{URL: databaseURL, MaxConns: 16}); err != nil {
		return nil, "", err
	}
	b.closers = append(b.closers, db.Close)
	return db, databaseURL, nil
}

func (b *bench) raw(amqpURL string) (err error) {
	if b.conn, err = amqp091.Dial(amqpURL); err != nil {
		return err
	}
	b.closers = append(b.closers, func() { _ = b.conn.Close() })
	b.rawQueue = "bench-" + uuid.NewString()
	return nil
}

func (b *bench) onChannel(do func(*amqp091.Channel) error) error {
	c, err := b.conn.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return do(c)
}

func (b *bench) inProcess(ctx context.Context, amqpURL, databaseURL string) error {
	logs, err := observe.NewLogs(observe.LogConfig{Level: "info", Format: "json", File: os.DevNull})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, logs.Close)
	b.log = logs.Access
	adapter, err := amqp.New(amqpURL, logs.Main)
	if err != nil {
		return err
	}
	b.adapter, b.broker = adapter, broker.Named(adapter, func(ctx context.Context) (uuid.UUID, error) { return pg.Identity(ctx, b.db.System()) })
	b.run(adapter.Run)
	if err := adapter.Declare(ctx, broker.Queue{Name: b.rawQueue}); err != nil {
		return err
	}
	b.closers = append(b.closers, func() { // Once the server and the service have ended.
		_ = adapter.Delete(context.WithoutCancel(ctx), b.rawQueue)
		for _, queue := range []string{b.onBroker, "default.task_queue"} {
			_ = b.broker.Delete(context.WithoutCancel(ctx), queue)
		}
	})
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: b.db.System(), URL: databaseURL, Log: logs.Main})
	if err != nil {
		return err
	}
	b.service = message.New(message.Config{
		DB: b.db, Handlers: b.db, System: b.db.System(), Notifier: notifier, Broker: b.broker, Log: logs.Main,
		Limits: message.Limits{Queues: 1000, Waiting: 1_000_000},
	})
	b.run(func(ctx context.Context) error { notifier.Run(ctx); return nil })
	b.run(b.service.Run)
	if b.queue, err = message.ParseQueueName("bench-" + uuid.NewString()); err != nil {
		return err
	}
	b.onBroker = "default." + b.queue.String()
	_, err = b.service.CreateQueue(ctx, b.queue, message.Policy{})
	return err
}

// run runs a part until the bench is closed.
func (b *bench) run(part func(context.Context) error) {
	b.closers = append(b.closers, command.Start(part))
}

// work runs a worker until it is stopped.
func (b *bench) work(w *message.Worker) (stop func()) { return command.Start(w.Run) }

func (b *bench) purge(ctx context.Context) error {
	_, err := b.broker.Purge(ctx, b.onBroker)
	return err
}

func (b *bench) empty(queue string) error {
	return b.onChannel(func(c *amqp091.Channel) error {
		_, err := c.QueuePurge(queue, false)
		return err
	})
}

// fill puts n messages in a queue.
func fill(ctx context.Context, to broker.Broker, queue string, n int) error {
	return concurrently(window, n, func() error {
		return to.Publish(ctx, broker.Address{Queue: queue}, broker.Message{ID: uuid.Must(uuid.NewV7()).String(), Body: payload})
	})
}

// fillWaiting commits n messages in one transaction.
func (b *bench) fillWaiting(ctx context.Context, n int) error {
	return b.db.InTx(ctx, func(tx *pg.Tx) error {
		for range n {
			if _, err := b.service.PublishTx(ctx, tx, b.publication()); err != nil {
				return err
			}
		}
		return nil
	})
}

// server is cmd/server, built and started.
type server struct {
	cmd    *exec.Cmd
	url    string
	key    string // of the administrator
	folder string
}

func startServer(amqpURL, databaseURL string) (*server, error) {
	folder, err := os.MkdirTemp("", "plinth-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{folder: folder, key: auth.NewKey()}
	if out, err := exec.Command("go", "build", "-o", folder, "plinth/cmd/server").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the server: %w\n%s", err, out)
	}
	s.cmd = exec.Command(filepath.Join(folder, "server"))
	s.cmd.Env = append(os.Environ(), "HTTP_ADDR=127.0.0.1:0", "DATABASE_URL="+databaseURL, "AMQP_URL="+amqpURL,
		"REDIS_URL="+cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379/0"), "BROKER=rabbitmq", "WORKER_INLINE=false",
		"AUTH_ADMIN_KEY="+s.key, "ADMIN_ADDR=")
	log, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(log)
	listening := regexp.MustCompile(`listening.*"address":"([^"]+)"`)
	for lines.Scan() {
		if match := listening.FindStringSubmatch(lines.Text()); match != nil {
			s.url = "http://" + match[1]
			break
		}
	}
	if s.url == "" {
		s.stop()
		return nil, fmt.Errorf("the server did not start")
	}
	go func() { // Nobody needs the log, but the server must be able to write it.
		for lines.Scan() {
		}
	}()
	return s, s.ready()
}

func (s *server) ready() error {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		res, err := http.Get(s.url + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		<-time.After(100 * time.Millisecond)
	}
	return fmt.Errorf("the server is not ready after 30 s")
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.folder)
}
