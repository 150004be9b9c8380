package pg

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectLimit  = 5 * time.Second
	rollbackLimit = 5 * time.Second
)

// Config says which database to use.
type Config struct {
	// URL is a PostgreSQL URL. What it sets itself (statement_timeout, connect_timeout, pool_max_conns, ...) wins over
	// the defaults of this package.
	URL string
	// MaxConns limits the pool. Zero leaves it to the URL's pool_max_conns, or to the number of processors, at least 4.
	MaxConns int32
}

// DB is a pool of connections to one database. It is safe for concurrent use.
//
// Every transaction and every statement acts in the role plinth_app for the tenant of its context (package auth): row level
// security shows it that tenant's rows and no others, and none where the context has no tenant. See System.
type DB struct {
	pool   *pgxpool.Pool
	system bool
}

// Querier is what SQL runs on: a transaction or, for a single statement, the pool.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Open makes the pool. It asks nothing of the server, which may be away: an error means that the URL is not usable.
//
// A statement is cancelled after 30 seconds, and a transaction that sits idle for 30 seconds loses its connection,
// unless the URL sets statement_timeout and idle_in_transaction_session_timeout otherwise.
func Open(ctx context.Context, c Config) (*DB, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, unusable(c.URL, err)
	}
	setDefaults(config.ConnConfig)
	for _, name := range []string{"statement_timeout", "idle_in_transaction_session_timeout"} {
		setTimeout(config.ConnConfig.RuntimeParams, name, "30s")
	}
	if c.MaxConns > 0 {
		config.MaxConns = c.MaxConns
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, unusable(c.URL, err)
	}
	return &DB{pool: pool}, nil
}

// System is the same pool in the role plinth_system, which sees the rows of all tenants: for relays, maintenance and
// administrators, never for what a tenant asks.
func (db *DB) System() *DB { return &DB{pool: db.pool, system: true} }

// Close waits until every connection is returned, and closes them.
func (db *DB) Close() { db.pool.Close() }

// MaxConns is the limit of the pool.
func (db *DB) MaxConns() int { return int(db.pool.Config().MaxConns) }

// Ping says whether a connection can be had and answers.
func (db *DB) Ping(ctx context.Context) error { return driverError(db.pool.Ping(ctx)) }

// InTx runs fn in a transaction and commits it. When fn gives an error or panics, or ctx ends, everything is rolled
// back; the panic goes on. An errs.Unavailable may come from the commit itself: then the outcome is unknown.
func (db *DB) InTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	begun, err := db.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: db.begin(ctx)})
	if err != nil {
		return driverError(err)
	}
	tx := &transaction{Tx: begun, after: new([]func())}
	// Rolling back what is committed does nothing. A cancelled request must not leave its locks to a timeout, nor cost
	// the pool a connection.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	if err := fn(tx); err != nil {
		return classify(err, tx.Conn().IsClosed())
	}
	if err := tx.Commit(ctx); err != nil {
		return driverError(err)
	}
	for _, f := range *tx.after {
		f()
	}
	return nil
}

// AfterCommit has f called once tx, which InTx gave, is committed; never where it is rolled back.
func AfterCommit(tx pgx.Tx, f func()) {
	after := tx.(*transaction).after
	*after = append(*after, f)
}

// transaction remembers what is to be done after its commit. Savepoints within it share that.
type transaction struct {
	pgx.Tx
	after *[]func()
}

// Begin makes a savepoint.
func (t *transaction) Begin(ctx context.Context) (pgx.Tx, error) {
	savepoint, err := t.Tx.Begin(ctx)
	return &transaction{savepoint, t.after}, err
}

// connConfig is for connections outside of the pool.
func connConfig(connURL string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(connURL)
	if err != nil {
		return nil, unusable(connURL, err)
	}
	setDefaults(config)
	return config, nil
}

func setDefaults(config *pgx.ConnConfig) {
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectLimit
	}
}

func setTimeout(params map[string]string, name, value string) {
	if _, set := params[name]; set || strings.Contains(params["options"], name) {
		return
	}
	params[name] = value
}

// unusable tells what is wrong with a URL without showing any of it. The driver's own text quotes the URL and masks
// passwords as well as it can guess them, so only the innermost reason is taken, and only where the URL's parts are
// certain.
func unusable(connURL string, err error) error {
	const form = "not a usable database URL, such as postgres://user:password@host:5432/database?sslmode=verify-full"
	reason := errors.Unwrap(err)
	if _, parseErr := url.Parse(connURL); parseErr != nil || reason == nil {
		return errors.New(form)
	}
	return errors.New(form + ": " + reason.Error())
}
