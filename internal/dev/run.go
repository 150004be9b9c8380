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
	context.AfterFunc(ctx, stop) // from then on signals do what they do to any program
	ctx = WithParent(ctx)
	if err := checkFree(cmp.Or(env["HTTP_ADDR"], defaultAddr)); err != nil {
		return err
	}
	backends, err := Start(ctx, env, w)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // asked to end while it started
	case err != nil:
		return err
	}
	defer backends.Close()
	backends.Banner(w)
	return backends.serve(ctx, serve)
}

// serve serves until the end of ctx, of run, or of a private PostgreSQL, which nothing here would bring back.
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

// endSignals are the signals to end on. A program that nohup started keeps ignoring the loss of its terminal.
func endSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}
