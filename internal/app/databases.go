package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"plinth/internal/pg"
)

// databases are the pools of connections to PostgreSQL, one for each class of work. A class that uses up its own connections
// does not hold up another.
type databases struct {
	calls     *pg.DB // what clients ask for
	handlers  *pg.DB // handlers with a transaction, and settling
	work      *pg.DB // the relay, what is due, sweeps, notifications
	broker    *pg.DB // the broker if it is in PostgreSQL, else nil
	directory *pg.DB // looking up callers, and the health check
}

// Connections of a process in addition to DATABASE_MAX_CONNS, including the one that listens. docs/configuration.md has the
// table.
const (
	workConns      = 5
	directoryConns = 2
	listenConns    = 1
)

// openDatabases opens the pools. DATABASE_MAX_CONNS bounds those that grow with the load: a quarter is for handlers, a
// quarter for the broker if it is in PostgreSQL, and the rest for calls.
func openDatabases(ctx context.Context, cfg Config, log *zap.Logger) (d databases, err error) {
	calls, quarter := cfg.Database.shares(cfg.Broker.Kind)
	classes := []class{
		{&d.calls, calls, true}, {&d.handlers, quarter, false}, {&d.work, workConns, false}, {&d.directory, directoryConns, false},
	}
	if cfg.Broker.Kind == postgresBroker {
		classes = append(classes, class{&d.broker, quarter, true})
	}
	for _, c := range classes {
		if *c.db, err = pg.Open(ctx, pg.Config{
			URL: string(cfg.Database.URL), MaxConns: c.conns, Shared: c.shared, Log: log, Slow: cfg.Log.SlowSQL,
		}); err != nil {
			d.close()
			return databases{}, wrong("DATABASE_URL", err)
		}
	}
	return d, nil
}

type class struct {
	db     **pg.DB
	conns  int32
	shared bool // by the tenants that call
}

func (d databases) close() { d.each((*pg.DB).Close) }

// reset has every class connect anew.
func (d databases) reset() { d.each((*pg.DB).Reset) }

func (d databases) each(do func(*pg.DB)) {
	for _, db := range []*pg.DB{d.calls, d.handlers, d.broker, d.work, d.directory} {
		if db != nil {
			do(db)
		}
	}
}

// shares returns the number of connections for calls, and the number for handlers, which is also that for a broker in
// PostgreSQL. Check makes sure that each is at least one.
func (c *databaseConfig) shares(broker string) (calls, quarter int32) {
	quarter = max(1, c.MaxConns/4)
	calls = c.MaxConns - quarter
	if broker == postgresBroker {
		calls -= quarter
	}
	return calls, quarter
}

// direct returns the URL that leads to the server itself, past a pooler.
func (c *databaseConfig) direct() string {
	if c.DirectURL != "" {
		return string(c.DirectURL)
	}
	return string(c.URL)
}

// schemaEvery is how often the health check looks at the schema, which hardly ever goes away. In between it only asks whether
// the database takes writes, which costs the database a fraction of that.
const schemaEvery = 10 * time.Second

// askPostgres returns the health check of PostgreSQL, which is not safe for concurrent use.
func (a *App) askPostgres() func(ctx context.Context) error {
	var current time.Time // when the schema was seen to be current; zero after a failure
	return func(ctx context.Context) error {
		err := a.db.directory.Writable(ctx)
		if errors.Is(err, pg.ErrReadOnly) { // Whoever only reads would go on with what is no longer true.
			a.db.reset()
		}
		if err == nil && time.Since(current) >= schemaEvery {
			err, current = a.checkPostgres(ctx), time.Now()
		}
		if err != nil {
			current = time.Time{}
		}
		return err
	}
}

// checkPostgres returns an error unless PostgreSQL answers and has the schema of this binary, or a newer one.
func (a *App) checkPostgres(ctx context.Context) error {
	current, err := a.db.directory.SchemaCurrent(ctx)
	if err == nil && !current {
		err = fmt.Errorf("the schema is not migrated yet")
	}
	return err
}
