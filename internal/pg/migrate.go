package pg

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"go.uber.org/zap"
)

// Migrations only go forward: a release adds what it needs, and a later one removes what no running release uses.
//
//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema to the newest version that this binary knows. Any number of replicas may call it at the same
// time: one migrates under a session lock, the others wait for it. It does nothing if the schema is current or newer.
func Migrate(ctx context.Context, url string, logger *zap.Logger) error {
	config, err := connConfig(url)
	if err != nil {
		return err
	}
	// The default asks for the lock every 5 seconds for 5 minutes; this one asks every second, also for 5 minutes.
	session, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300), lock.WithUnlockTimeout(1, 5))
	if err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(session))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	applied, err := provider.Up(ctx)
	for _, m := range applied {
		logger.Info("migrated", zap.String("migration", m.Source.Path), zap.Duration("duration_ms", m.Duration))
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", driverError(err))
	}
	return nil
}

// SchemaCurrent reports whether the schema is at the newest version that this binary knows, or above it: an older binary
// stays ready after a newer release has migrated.
func (p *pool) SchemaCurrent(ctx context.Context) (bool, error) {
	newest, err := newestMigration()
	if err != nil {
		return false, err
	}
	var version int64
	err = p.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&version)
	var reply *pgconn.PgError
	if errors.As(err, &reply) && isUnmigrated(reply) {
		return false, nil
	}
	return version >= newest, err
}

// isUnmigrated reports whether the reply means that there is no version table or no role yet, or that the migration which lets
// the roles read that table has not run.
func isUnmigrated(reply *pgconn.PgError) bool {
	switch reply.Code {
	case "42P01", "22023":
		return true
	case "42501":
		return reply.Routine == "aclcheck_error" // of the table; a login that may not take the role is another routine's
	default:
		return false
	}
}

func newestMigration() (int64, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return 0, err
	}
	return goose.NumericComponent(names[len(names)-1]) // Glob sorts them
}
