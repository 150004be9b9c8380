// Package scratch creates what a benchmark works on and drops in the end.
package scratch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/internal/pg"
)

// Database creates a database with the schema of the service, on the server of DATABASE_URL or else the one of this machine. drop
// removes it, and closes the connections that others have to it.
func Database(ctx context.Context) (databaseURL string, drop func() error, err error) {
	server := cmp.Or(os.Getenv("DATABASE_URL"), "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")
	u, err := url.Parse(server)
	if err != nil {
		return "", nil, errors.New("DATABASE_URL is not a URL")
	}
	name := fmt.Sprintf("plinth_bench_%d", time.Now().UnixNano())
	if err := execute(ctx, server, `CREATE DATABASE `+name); err != nil {
		return "", nil, err
	}
	drop = func() error {
		return execute(context.WithoutCancel(ctx), server, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`)
	}
	u.Path = "/" + name
	if err := pg.Migrate(ctx, u.String(), zap.NewNop()); err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return u.String(), drop, nil
}

func execute(ctx context.Context, server, sql string) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, sql)
	return err
}
