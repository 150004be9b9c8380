package observe

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// LogPanic is deferred by goroutines of the service. It logs a panic, which writes out what is buffered, and lets it go on: it ends the
// process, unless somebody recovers.
func LogPanic(log *zap.Logger) {
	if p := recover(); p != nil {
		log.Error("panic", zap.String("panic", fmt.Sprint(p)), zap.ByteString("stack", debug.Stack()))
		panic(p)
	}
}

// flushLimit is how long the end of the process waits for a disk that hangs.
const flushLimit = time.Second

// Flush writes out what is buffered, unless that takes too long.
func (l *Logs) Flush() {
	done := make(chan struct{})
	go func() {
		_ = l.buffered.Sync()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(flushLimit):
	}
}

// FlushBeforeSignals has the log flushed before a signal ends the process at once: SIGQUIT and SIGABRT, for which the runtime prints all
// goroutines, and, once ctx has ended, SIGINT and SIGTERM. It does so until stop is called.
func (l *Logs) FlushBeforeSignals(ctx context.Context) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGABRT)
	unhook := context.AfterFunc(ctx, func() { signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) })
	stopped := make(chan struct{})
	go func() {
		select {
		case <-stopped:
		case s := <-signals:
			l.Flush()
			signal.Reset(s)
			_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
		}
	}()
	return func() {
		unhook()
		signal.Stop(signals)
		close(stopped)
	}
}
