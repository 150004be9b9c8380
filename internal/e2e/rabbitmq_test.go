package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// rabbitNode is a RabbitMQ of a test's own, which it may stop, kill and start again on the same data.
type rabbitNode struct {
	env  map[string]string
	url  string
	node *process
}

// startRabbitMQ starts one. It and all that belongs to it end with the test.
func startRabbitMQ(t testing.TB) *rabbitNode {
	t.Helper()
	home := t.TempDir()
	plugins := filepath.Join(home, "plugins")
	if err := os.WriteFile(plugins, []byte("[]."), 0o600); err != nil {
		t.Fatal(err)
	}
	amqpPort, distPort, epmdPort := freePort(), freePort(), freePort()
	r := &rabbitNode{url: "amqp://guest:guest@127.0.0.1:" + amqpPort + "/", env: map[string]string{
		"HOME":                          home, // for the cookie
		"RABBITMQ_NODENAME":             fmt.Sprintf("plinth-%d-%s@localhost", os.Getpid(), amqpPort),
		"RABBITMQ_MNESIA_BASE":          filepath.Join(home, "data"),
		"RABBITMQ_LOG_BASE":             filepath.Join(home, "log"),
		"RABBITMQ_PID_FILE":             filepath.Join(home, "pid"),
		"RABBITMQ_CONFIG_FILE":          filepath.Join(home, "none"),
		"RABBITMQ_CONF_ENV_FILE":        filepath.Join(home, "none"),
		"RABBITMQ_ENABLED_PLUGINS_FILE": plugins, "RABBITMQ_LOGS": "-",
		"RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": amqpPort, "RABBITMQ_DIST_PORT": distPort,
		"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": epmdPort, // Else the node would join, or leave behind, a shared one.
		"RUNNING_UNDER_SYSTEMD": "true", // The script then becomes the node, in place of a shell that waits for it.
	}}
	launch(t, "epmd", configured(exec.Command(tool(t, "epmd"), "-address", "127.0.0.1", "-port", epmdPort), nil))
	r.start(t)
	return r
}

// start starts the node, and waits until it takes connections.
func (r *rabbitNode) start(t testing.TB) {
	t.Helper()
	// Debian's rabbitmq-server in the path is for the one node of the machine.
	script := tool(t, "/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
	r.node = launch(t, "rabbitmq", configured(exec.Command(script), r.env))
	within(t, 2*patience, "RabbitMQ takes connections", func() bool { // It computes a lot before that.
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

// freePort is one that nobody listens on, and that no system gives to who asks for any port: until the node listens there,
// and while it is away, another test might get it.
func freePort() string {
	for {
		port := strconv.Itoa(10_000 + rand.N(20_000))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
}
