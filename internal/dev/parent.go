package dev

import (
	"context"
	"os"
	"regexp"
	"time"
)

// WithParent returns a context that ends when `go run`, our parent, is gone: killed with -9 or SIGTERM, it does not signal
// us, and we would live on as an orphan. A program that was not started by `go run` gets its context back as it is.
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

// madeByGoRun knows the two places of such executables: a temporary folder go-build<number>, and from the second run on
// the build cache, <two digits>/<hash>-d/.
func madeByGoRun(executable string) bool {
	return regexp.MustCompile(`/go-build\d|/[0-9a-f]{2}/[0-9a-f]{64}-d/`).MatchString(executable)
}
