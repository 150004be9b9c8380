package app

import (
	"context"
	"fmt"
	"time"

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

// Connections that a process has beside DATABASE_MAX_CONNS, the one that listens among them. docs/configuration.md has the
// table.
const (
	workConns      = 5
	directoryConns = 2
	listenConns    = 1
)

// openDatabases opens the pools. DATABASE_MAX_CONNS is for what grows with the load: a quarter of it for handlers, where the
// broker is in PostgreSQL a quarter for that, and the rest for calls.
func openDatabases(ctx context.Context, cfg Config) (d databases, err error) {
	calls, quarter := cfg.Database.shares(cfg.Broker.Kind)
	classes := []class{{&d.calls, calls}, {&d.handlers, quarter}, {&d.work, workConns}, {&d.directory, directoryConns}}
	if cfg.Broker.Kind == postgresBroker {
		classes = append(classes, class{&d.broker, quarter})
	}
	for _, c := range classes {
		if *c.db, err = pg.Open(ctx, pg.Config{URL: string(cfg.Database.URL), MaxConns: c.conns}); err != nil {
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

// shares returns the connections for calls, and those for handlers, which a broker in PostgreSQL has as well. Check wants
// enough for one each.
func (c *databaseConfig) shares(broker string) (calls, quarter int32) {
	quarter = max(1, c.MaxConns/4)
	calls = c.MaxConns - quarter
	if broker == postgresBroker {
		calls -= quarter
	}
	return calls, quarter
}

// direct is the URL that leads to the server itself, past a pooler.
func (c *databaseConfig) direct() string {
	if c.DirectURL != "" {
		return string(c.DirectURL)
	}
	return string(c.URL)
}

// schemaEvery is how often readiness looks at the schema, which hardly ever goes away. Between, a ping is enough, and costs the
// database a fraction of it.
const schemaEvery = 10 * time.Second

// askPostgres returns the check of PostgreSQL. It is not for concurrent use.
func (a *App) askPostgres() func(ctx context.Context) error {
	var current time.Time // when the schema was seen to be current; zero after a failure
	return func(ctx context.Context) error {
		if time.Since(current) < schemaEvery {
			err := a.db.directory.Ping(ctx)
			if err != nil {
				current = time.Time{}
			}
			return err
		}
		err := a.checkPostgres(ctx)
		if current = time.Now(); err != nil {
			current = time.Time{}
		}
		return err
	}
}

// checkPostgres wants the database and the schema that this binary knows, or a newer one.
func (a *App) checkPostgres(ctx context.Context) error {
	current, err := a.db.directory.SchemaCurrent(ctx)
	if err == nil && !current {
		err = fmt.Errorf("the schema is not migrated yet")
	}
	return err
}
