package app

import (
	"context"
	"fmt"

	"plinth/internal/pg"
)

// databases are the connections to PostgreSQL, in classes: who holds all of one holds up nobody in another.
type databases struct {
	calls     *pg.DB // what clients ask for
	handlers  *pg.DB // handlers with a transaction, and settling
	work      *pg.DB // the relay, what is due, sweeps, notifications
	broker    *pg.DB // a broker in PostgreSQL; nil where there is none
	directory *pg.DB // who calls, and whether the database can be used
}

// Connections that a process has beside DATABASE_MAX_CONNS, and the one that listens.
const (
	workConns      = 5
	directoryConns = 2
)

// openDatabases opens the pools. DATABASE_MAX_CONNS is for what grows with the load: a quarter of it for handlers, where the
// broker is in PostgreSQL a quarter for that, and the rest for calls.
func openDatabases(ctx context.Context, cfg Config) (d databases, err error) {
	quarter := max(1, cfg.DatabaseMaxConns/4)
	calls := cfg.DatabaseMaxConns - quarter
	classes := []class{{&d.handlers, quarter}, {&d.work, workConns}, {&d.directory, directoryConns}}
	if cfg.Broker == postgresBroker {
		calls -= quarter
		classes = append(classes, class{&d.broker, quarter})
	}
	for _, c := range append(classes, class{&d.calls, max(1, calls)}) {
		if *c.db, err = pg.Open(ctx, pg.Config{URL: string(cfg.DatabaseURL), MaxConns: c.conns}); err != nil {
			d.close()
			return databases{}, wrong("DATABASE_URL", err)
		}
	}
	return d, nil
}

type class struct {
	db    **pg.DB
	conns int32
}

func (d databases) close() {
	for _, db := range []*pg.DB{d.calls, d.handlers, d.broker, d.work, d.directory} {
		if db != nil {
			db.Close()
		}
	}
}

// directURL leads to the server itself, past a pooler.
func (c *Config) directURL() string {
	if c.DatabaseDirectURL != "" {
		return string(c.DatabaseDirectURL)
	}
	return string(c.DatabaseURL)
}

// checkPostgres wants the database and the schema that this binary knows, or a newer one.
func (a *App) checkPostgres(ctx context.Context) error {
	current, err := a.db.directory.SchemaCurrent(ctx)
	if err == nil && !current {
		err = fmt.Errorf("the schema is not migrated yet")
	}
	return err
}
