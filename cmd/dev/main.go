// Command dev runs the whole service in one process on backends of its own: `go run ./cmd/dev`. See package dev.
package main

import (
	"context"
	"os"

	"plinth/internal/app"
	"plinth/internal/dev"
)

func main() {
	app.Arguments(app.Dev)
	app.Exit(dev.Run(app.Environ(), os.Stderr, func(ctx context.Context, env map[string]string) error {
		cfg, err := app.ParseConfig(app.Dev, env)
		if err != nil {
			return err
		}
		return app.Run(ctx, cfg)
	}))
}
