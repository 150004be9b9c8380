package app

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	maxDrainWindow = 5 * time.Second
	migrateRetry   = time.Second
)

// run runs every part of the service that runs long, in two tiers. Work (calls, messages) stops first, and run waits for it.
// What the work needs (the broker's connections, the health checks) stops after that.
//
//	SIGTERM → not ready → drain window → streams finish, calls end, handlers finish → broker → notifier → pools
func (a *App) run(ctx context.Context) error {
	build := observe.ReadBuild()
	a.log.Info("starting", zap.String("role", string(a.cfg.Role)), zap.String("version", build.Version),
		zap.String("revision", build.Revision), zap.String("go", build.Go))
	var server *http.Server
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	notifying, stopNotifying := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNotifying()
	group, failed := errgroup.WithContext(base)
	working, stopWork := context.WithCancel(failed)
	defer stopWork()

	if a.cfg.Role != Worker {
		server = a.newServer()
		listener, err := a.listen(server)
		if err != nil {
			return err
		}
		defer server.Close()
		a.log.Info("listening", zap.Stringer("address", listener.Addr()), zap.Bool("tls", server.TLSConfig != nil))
		group.Go(func() error { defer observe.LogPanic(a.log); return serve(server, listener) })
		if a.certificate != nil {
			group.Go(func() error { defer observe.LogPanic(a.log); return a.certificate.watch(base) })
		}
	}
	notified := make(chan struct{})
	go func() {
		defer close(notified)
		defer observe.LogPanic(a.log)
		a.notifier.Run(notifying)
	}()
	group.Go(func() error { defer observe.LogPanic(a.log); return a.broker.Run(base) })
	group.Go(func() error { defer observe.LogPanic(a.log); return a.health.run(base) })
	group.Go(func() error { defer observe.LogPanic(a.log); return a.serveAdmin(base) })
	if a.cfg.Role != Dev { // There it is the end of a terminal.
		group.Go(func() error { defer observe.LogPanic(a.log); a.reopenLogs(base); return nil })
	}
	for _, d := range a.domains {
		a.start(group, base, d.run)
	}
	work := make(chan struct{})
	group.Go(func() error {
		defer observe.LogPanic(a.log)
		defer close(work)
		return a.work(working)
	})

	select {
	case <-ctx.Done():
	case <-failed.Done(): // A part ended with an error.
	}
	a.closeBy = time.Now().Add(a.cfg.Process.ShutdownTimeout)
	deadline, cancel := context.WithDeadline(context.WithoutCancel(ctx), a.closeBy)
	defer cancel()
	a.shutdown(deadline, server, stopWork, work)
	stopBase()
	err := a.wait(deadline, group)
	stopNotifying() // Only now, so that notifications of what the other parts have committed are still received.
	select {
	case <-notified:
	case <-deadline.Done():
	}
	return err
}

// start runs a part of a domain, which may be nil, in a group.
func (a *App) start(group *errgroup.Group, ctx context.Context, part func(context.Context) error) {
	if part != nil {
		group.Go(func() error { defer observe.LogPanic(a.log); return part(ctx) })
	}
}

// work prepares the schema and the queues. Then it runs the parts of the domains and, in workers, the handlers.
func (a *App) work(ctx context.Context) error {
	if err := a.migrate(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	if err := a.worker.EnsureQueues(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	a.health.prepare()
	group, ctx := errgroup.WithContext(ctx)
	works := a.cfg.Role == Worker || a.cfg.Process.WorkerInline
	for _, d := range a.domains {
		a.start(group, ctx, d.serve)
		if !works {
			continue
		}
		a.start(group, ctx, d.work)
	}
	if works {
		a.start(group, ctx, a.worker.Run)
	}
	return group.Wait()
}

// migrate migrates the schema, or waits until another process has. It waits for a database that is away.
func (a *App) migrate(ctx context.Context) error {
	for {
		var err error
		if a.cfg.Database.Migrate {
			err = pg.Migrate(ctx, a.cfg.Database.direct(), a.log)
		} else {
			err = a.checkPostgres(ctx)
		}
		switch {
		case err == nil, ctx.Err() != nil:
			return nil
		case a.cfg.Database.Migrate && !errs.Is(err, errs.Unavailable):
			return err
		}
		a.log.Warn("waiting for the database", zap.Error(err))
		if !loop.Sleep(ctx, migrateRetry) {
			return nil
		}
	}
}

// shutdown ends the work. It blocks until all of it is done, or ctx ends.
func (a *App) shutdown(ctx context.Context, server *http.Server, stopWork func(), work <-chan struct{}) {
	a.log.Info("shutting down", zap.Duration("within_ms", a.cfg.Process.ShutdownTimeout))
	a.health.drain()
	stopWork()
	if server != nil {
		select {
		case <-time.After(min(a.cfg.Process.ShutdownTimeout/10, maxDrainWindow)):
		case <-ctx.Done():
		}
		// The rest of the time is for what the calls depend on.
		calls, cancel := context.WithTimeout(ctx, a.cfg.Process.ShutdownTimeout*3/4)
		defer cancel()
		if err := server.Shutdown(calls); err != nil {
			a.log.Warn("calls were cut off", zap.Error(err))
			_ = server.Close()
		}
	}
	select {
	case <-work:
	case <-ctx.Done():
		a.log.Warn("handlers were cut off; their messages will come again")
	}
}

// wait blocks until the last part has ended. Parts that do not end in time end with the process.
func (a *App) wait(ctx context.Context, group *errgroup.Group) error {
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return errors.New("not everything ended within SHUTDOWN_TIMEOUT")
}
