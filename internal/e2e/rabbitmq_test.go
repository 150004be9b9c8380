package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	amqp091 "github.com/rabbitmq/amqp091-go"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/porttest"
)

// rabbitNode is a private RabbitMQ, which a test may stop, kill and start again on the same data.
type rabbitNode struct {
	env  map[string]string
	url  string
	node *process
}

// startRabbitMQ starts a RabbitMQ, which ends with the test.
func startRabbitMQ(t testing.TB) *rabbitNode {
	t.Helper()
	return startRabbitMQWith(t, "")
}

// startRabbitMQWith starts a RabbitMQ with settings of its own, in the form of rabbitmq.conf.
func startRabbitMQWith(t testing.TB, settings string) *rabbitNode {
	t.Helper()
	home := t.TempDir()
	conf := filepath.Join(home, "rabbitmq.conf")
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	plugins := filepath.Join(home, "plugins")
	if err := os.WriteFile(plugins, []byte("[]."), 0o600); err != nil {
		t.Fatal(err)
	}
	amqpPort, distPort, epmdPort := porttest.Free(t), porttest.Free(t), porttest.Free(t)
	r := &rabbitNode{url: "amqp://guest:guest@127.0.0.1:" + amqpPort + "/", env: map[string]string{
		"HOME":                          home, // for the cookie
		"RABBITMQ_NODENAME":             fmt.Sprintf("plinth-%d-%s@localhost", os.Getpid(), amqpPort),
		"RABBITMQ_MNESIA_BASE":          filepath.Join(home, "data"),
		"RABBITMQ_LOG_BASE":             filepath.Join(home, "log"),
		"RABBITMQ_PID_FILE":             filepath.Join(home, "pid"),
		"RABBITMQ_CONFIG_FILE":          conf,
		"RABBITMQ_CONF_ENV_FILE":        filepath.Join(home, "none"),
		"RABBITMQ_ENABLED_PLUGINS_FILE": plugins, "RABBITMQ_LOGS": "-",
		"RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": amqpPort, "RABBITMQ_DIST_PORT": distPort,
		"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": epmdPort, // Otherwise the node would join a shared epmd, or leave one behind.
		"RUNNING_UNDER_SYSTEMD": "true", // The script then becomes the node, instead of a shell that waits for it.
	}}
	launch(t, "epmd", configured(exec.Command(tool(t, "epmd"), "-address", "127.0.0.1", "-port", epmdPort), nil))
	r.start(t)
	return r
}

// start starts the node, and waits until it takes connections.
func (r *rabbitNode) start(t testing.TB) {
	t.Helper()
	// Debian's rabbitmq-server in the PATH only starts the machine's own node.
	script := tool(t, "/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
	r.node = launch(t, "rabbitmq", configured(exec.Command(script), r.env))
	within(t, 6*patience, "RabbitMQ takes connections", func() bool { // Its start is slow, and waits for the disk.
		select {
		case <-r.node.done:
			t.Fatal("RabbitMQ does not start")
		default:
		}
		conn, err := amqp091.DialConfig(r.url, amqp091.Config{Dial: amqp091.DefaultDial(time.Second)})
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// crash ends the node at once, stop as an operator does.
func (r *rabbitNode) crash() { r.node.kill() }

func (r *rabbitNode) stop(t testing.TB) {
	t.Helper()
	r.node.signal(t, syscall.SIGTERM)
	r.node.exit(t, patience)
}

// TestCreateQueueWhileRabbitMQIsSilent has more calls wait for RabbitMQ than there are connections to PostgreSQL. None of them
// has one meanwhile.
func TestCreateQueueWhileRabbitMQIsSilent(t *testing.T) {
	takeRabbitMQ(t)
	env := backends(t, "rabbitmq")
	silent, through := newProxy(t, env["AMQP_URL"])
	silent.open()
	server := start(t, "server", with(env, map[string]string{"AMQP_URL": through}))
	url := "http://" + server.address(t)
	ready(t, url)
	client := grpcClient(t, url)
	silent.muted.Store(true)
	var calls sync.WaitGroup
	for i := range 24 {
		calls.Go(func() {
			_, err := client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: fmt.Sprintf("silent-%d", i)})
			wantCode(t, err, connect.CodeUnavailable)
		})
	}
	ended := make(chan struct{})
	go func() { calls.Wait(); close(ended) }()
	for waiting := true; waiting; {
		if code := statusOf(url + "/readyz"); code != http.StatusOK {
			t.Errorf("/readyz answers %d", code)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := client.ListQueues(ctx, &messagev1.ListQueuesRequest{}); err != nil {
			t.Errorf("ListQueues: %v", err)
		}
		cancel()
		select {
		case <-ended:
			waiting = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	silent.muted.Store(false)
	server.kill()
}
