package dev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Run runs cmd/dev: it starts the backends, writes to w what to try, and serves until SIGINT, SIGTERM or SIGHUP, the end of
// a parent `go run`, or the end of serve. A second signal ends the process at once, and its children with it. env is the
// environment of the process; serve gets it completed for the backends. An error of Run's own is one line that states what
// to do.
func Run(env map[string]string, w io.Writer, serve func(ctx context.Context, env map[string]string) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	context.AfterFunc(ctx, stop) // from then on signals have their default effect
	ctx = WithParent(ctx)
	if _, err := freeAddr(cmp.Or(env["HTTP_ADDR"], defaultAddr)); err != nil { // before anything is started
		return err
	}
	backends, err := Start(ctx, env, w)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // interrupted while it started
	case err != nil:
		return err
	}
	defer backends.Close()
	// Port 0 is replaced as late as possible, since another process may take the port before the service listens.
	if backends.env["HTTP_ADDR"], err = freeAddr(backends.env["HTTP_ADDR"]); err != nil {
		return err
	}
	backends.Banner(w)
	return backends.serve(ctx, serve)
}

// serve serves until ctx ends, run returns, or a private PostgreSQL ends, which nothing here would start again.
func (b *Backends) serve(ctx context.Context, run func(ctx context.Context, env map[string]string) error) error {
	if b.postgres == nil {
		return run(ctx, b.Env())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := fmt.Errorf("the private PostgreSQL ended by itself, see %s: start again", filepath.Join(b.dir, "postgres.log"))
	go func() {
		select {
		case <-ctx.Done():
		case <-b.postgres.child.done:
			cancel(ended)
		}
	}()
	err := run(ctx, b.Env())
	if errors.Is(context.Cause(ctx), ended) {
		return ended
	}
	return err
}

// endSignals returns the signals to end on. A program that was started by nohup keeps ignoring the loss of its terminal.
func endSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}
