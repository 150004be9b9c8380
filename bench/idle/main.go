// Command idle measures what idle processes cost PostgreSQL. It starts servers and workers, half of each, lets them idle,
// and reads the CPU time of all processes of PostgreSQL. ../README.md explains how to read it.
//
// It needs a PostgreSQL on this machine that nobody else uses meanwhile, with max_connections of 10 for each process: DATABASE_URL.
// The broker is in PostgreSQL, unless AMQP_URL is set.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"

	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/auth"
)

func main() { command.Main(run) }

const (
	promised = 0.05            // of a core
	apart    = time.Second / 5 // between two starts, so that the machine keeps up
)

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("idle", flag.ContinueOnError)
	processes := flags.Int("processes", 100, "servers and workers")
	settling := flags.Duration("settle", 90*time.Second, "how long to wait before")
	watched := flags.Duration("for", 30*time.Second, "how long to watch them")
	check := flags.Bool("check", false, "fail if the promise is broken")
	short := flags.Bool("short", false, "4 processes for 2 seconds: shows that it works, not what it costs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*processes, *watched, *settling = 4, 2*time.Second, 2*time.Second
	}
	database, drop, err := scratch.Database(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = drop() }()
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	stop, err := startAll(ctx, *processes, database)
	defer stop()
	if err != nil {
		return err
	}
	before, err := read(ctx, db, *settling)
	if err != nil {
		return err
	}
	after, err := read(ctx, db, *watched)
	if err != nil {
		return err
	}
	seconds := after.at.Sub(before.at).Seconds()
	core := (after.cpu - before.cpu).Seconds() / seconds
	fmt.Fprintf(out, "%d idle processes: %.1f %% of a core in PostgreSQL, %.0f transactions a second, %d connections\n",
		*processes, 100*core, float64(after.transactions-before.transactions)/seconds, after.connections)
	if *check && core > promised {
		return fmt.Errorf("promised are %.0f %% at the most", 100*promised)
	}
	return nil
}

// startAll builds the commands and starts them one after the other. stop ends what was started.
func startAll(ctx context.Context, n int, database string) (stop func(), err error) {
	dir, err := os.MkdirTemp("", "plinth-idle-")
	if err != nil {
		return func() {}, err
	}
	redis, err := miniredis.Run()
	if err != nil {
		return func() {}, err
	}
	var started []*exec.Cmd
	stop = func() {
		for _, cmd := range started {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		for _, cmd := range started {
			_ = cmd.Wait()
		}
		redis.Close()
		_ = os.RemoveAll(dir)
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), "plinth/cmd/server", "plinth/cmd/worker")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return stop, err
	}
	broker := "postgres"
	if os.Getenv("AMQP_URL") != "" {
		broker = "rabbitmq"
	}
	env := append(os.Environ(), "DATABASE_URL="+database, "BROKER="+broker, "REDIS_URL=redis://"+redis.Addr(), "AUTH_ADMIN_KEY="+auth.NewKey(), "ADMIN_ADDR=",
		"HTTP_ADDR=127.0.0.1:0", "LOG_LEVEL=error", "SHUTDOWN_TIMEOUT=5s")
	for i := range n {
		cmd := exec.Command(filepath.Join(dir, []string{"server", "worker"}[i%2]))
		cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			return stop, err
		}
		started = append(started, cmd)
		if err := pause(ctx, apart); err != nil {
			return stop, err
		}
	}
	return stop, nil
}

// state is what PostgreSQL has used and done up to a time.
type state struct {
	at           time.Time
	cpu          time.Duration // of all processes of the server
	transactions int64         // of the database
	connections  int           // to the database, except for our own
}

// read waits, and then reads the state.
func read(ctx context.Context, db *pgx.Conn, after time.Duration) (s state, err error) {
	if err := pause(ctx, after); err != nil {
		return s, err
	}
	var pid int
	err = db.QueryRow(ctx, `SELECT pg_backend_pid(), xact_commit, numbackends - 1 FROM pg_stat_database WHERE datname = current_database()`).
		Scan(&pid, &s.transactions, &s.connections)
	if err != nil {
		return s, err
	}
	s.at = time.Now()
	s.cpu, err = serverTime(pid)
	return s, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return errors.New("interrupted")
	}
}
