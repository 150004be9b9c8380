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
	"plinth/internal/pg"
)

const (
	maxDrainWindow = 5 * time.Second
	migrateRetry   = time.Second
)

// run owns every part that runs long. There are two tiers: work (calls, messages) stops first and is waited for; what it
// stands on (the broker's connections, the health checks) stops after it.
//
//	SIGTERM → not ready → drain window → streams finish, calls end, handlers finish → broker → notifier → pools
func (a *App) run(ctx context.Context) error {
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
		group.Go(func() error { return serve(server, listener) })
	}
	notified := make(chan struct{})
	go func() {
		defer close(notified)
		a.notifier.Run(notifying)
	}()
	group.Go(func() error { return a.broker.Run(base) })
	group.Go(func() error { return a.health.run(base) })
	group.Go(func() error { return a.serveAdmin(base) })
	for _, d := range a.domains {
		start(group, base, d.run)
	}
	work := make(chan struct{})
	group.Go(func() error {
		defer close(work)
		return a.work(working)
	})

	select {
	case <-ctx.Done():
	case <-failed.Done(): // A part ended with an error.
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Process.ShutdownTimeout)
	defer cancel()
	a.shutdown(deadline, server, stopWork, work)
	stopBase()
	err := a.wait(deadline, group)
	stopNotifying() // What the others have committed until now is to be heard.
	select {
	case <-notified:
	case <-deadline.Done():
	}
	return err
}

// start has a group run a part of a domain, which may be nil.
func start(group *errgroup.Group, ctx context.Context, part func(context.Context) error) {
	if part != nil {
		group.Go(func() error { return part(ctx) })
	}
}

// work prepares the schema and the queues, then runs what takes up work by itself, and handlers if this process is to.
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
		start(group, ctx, d.serve)
		if !works {
			continue
		}
		start(group, ctx, d.work)
		for _, work := range d.periodic {
			group.Go(func() error { a.db.work.System().Periodically(ctx, work); return nil })
		}
	}
	if works {
		start(group, ctx, a.worker.Run)
	}
	return group.Wait()
}

// migrate brings the schema up to date, or waits until somebody has. A database that is away is waited for.
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

// shutdown ends the work: it returns when all of it is done, or ctx ends.
func (a *App) shutdown(ctx context.Context, server *http.Server, stopWork func(), work <-chan struct{}) {
	a.log.Info("shutting down", zap.Duration("within_ms", a.cfg.Process.ShutdownTimeout))
	a.health.drain()
	stopWork()
	if server != nil {
		select {
		case <-time.After(min(a.cfg.Process.ShutdownTimeout/10, maxDrainWindow)):
		case <-ctx.Done():
		}
		// What stands behind the calls needs time to end, too.
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

// wait ends with the last part. Parts that do not end in time are left to the end of the process.
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
