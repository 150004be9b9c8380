package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// rabbitMQ returns the URL of a RabbitMQ for the storms: one of its own, since the storms of full size are too much for one that others
// use.
func (s sizes) rabbitMQ(ctx context.Context) (url string, stop func(), err error) {
	if !s.private {
		return cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@127.0.0.1:5672/"), func() {}, nil
	}
	home, err := os.MkdirTemp("", "bench-rabbitmq-")
	if err != nil {
		return "", nil, err
	}
	var started []*exec.Cmd
	stop = func() {
		for i := len(started) - 1; i >= 0; i-- {
			_ = started[i].Process.Signal(syscall.SIGTERM)
			_ = started[i].Wait()
		}
		_ = os.RemoveAll(home)
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	ports, err := freePorts(3)
	if err != nil {
		return "", nil, err
	}
	plugins := filepath.Join(home, "plugins")
	if err := os.WriteFile(plugins, []byte("[]."), 0o600); err != nil {
		return "", nil, err
	}
	epmd := exec.CommandContext(ctx, "epmd", "-address", "127.0.0.1", "-port", ports[2])
	script := "rabbitmq-server" // Debian's in the PATH only starts the machine's own node.
	if _, err := os.Stat("/usr/lib/rabbitmq/bin/rabbitmq-server"); err == nil {
		script = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	}
	node := exec.CommandContext(ctx, script)
	node.Env = append(os.Environ(),
		"HOME="+home, "RABBITMQ_NODENAME="+fmt.Sprintf("bench-%d@localhost", os.Getpid()), "RABBITMQ_MNESIA_BASE="+filepath.Join(home, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(home, "log"), "RABBITMQ_PID_FILE="+filepath.Join(home, "pid"), "RABBITMQ_CONFIG_FILE="+filepath.Join(home, "none"),
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(home, "none"), "RABBITMQ_ENABLED_PLUGINS_FILE="+plugins, "RABBITMQ_LOGS=-",
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT="+ports[0], "RABBITMQ_DIST_PORT="+ports[1],
		"ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT="+ports[2], // Otherwise the node would join a shared epmd, or leave one behind.
		"RUNNING_UNDER_SYSTEMD=true", // The script then becomes the node, instead of a shell that waits for it.
	)
	for _, cmd := range []*exec.Cmd{epmd, node} {
		if err := cmd.Start(); err != nil {
			return "", nil, err
		}
		started = append(started, cmd)
	}
	url = "amqp://guest:guest@127.0.0.1:" + ports[0] + "/"
	for began := time.Now(); time.Since(began) < 2*time.Minute; <-time.After(200 * time.Millisecond) { // Its start is slow, and waits for the disk.
		conn, err := amqp091.DialConfig(url, amqp091.Config{Dial: amqp091.DefaultDial(time.Second)})
		if err == nil {
			return url, stop, conn.Close()
		}
	}
	return "", nil, errors.New("RabbitMQ does not start")
}

func freePorts(n int) (ports []string, err error) {
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }() // Once all are known, so that they differ.
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}
