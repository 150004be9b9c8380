package dev

import (
	"context"
	"os"
	"regexp"
	"time"
)

// WithParent returns a context that ends when our parent is `go run` and has ended. If that is killed with -9 or SIGTERM it
// does not signal us, and we would live on as an orphan. If we were not started by `go run`, WithParent returns ctx.
func WithParent(ctx context.Context) context.Context {
	executable, err := os.Executable()
	if err != nil || !madeByGoRun(executable) {
		return ctx
	}
	parent := os.Getppid()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for os.Getppid() == parent {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return ctx
}

// madeByGoRun reports whether an executable is in one of the two places where `go run` puts them: a temporary folder
// go-build<number> or, from the second run on, the build cache, <two digits>/<hash>-d/.
func madeByGoRun(executable string) bool {
	return regexp.MustCompile(`/go-build\d|/[0-9a-f]{2}/[0-9a-f]{64}-d/`).MatchString(executable)
}
