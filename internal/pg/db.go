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
	// idleTime is how long a connection that nobody needs stays open.
	idleTime = time.Minute
	// pingAfter is how long a connection was idle that is tried before it is used. What polls every second does without.
	pingAfter = 5 * time.Second
)

// Config says which database to use.
type Config struct {
	// URL is a PostgreSQL URL. What it sets itself (statement_timeout, connect_timeout, pool_max_conns, ...) wins over
	// the defaults of this package.
	URL string
	// MaxConns limits the pool. Zero leaves it to the URL's pool_max_conns, or to the number of processors, at least 4.
	MaxConns int32
}

// DB runs what a tenant asks for: every transaction and every statement acts in the role plinth_app for the tenant of its
// context (package auth). Row level security shows it that tenant's rows and no others, and none where the context has no
// tenant. It is safe for concurrent use.
type DB struct{ pool }

// System runs what concerns all tenants, in the role plinth_system: relays, maintenance and administrators, never what a
// tenant asks for. It is safe for concurrent use.
type System struct{ pool }

// pool is a pool of connections to one database, and the role that it acts in.
type pool struct {
	conns    *pgxpool.Pool
	timeouts timeouts
	system   bool
}

// timeouts are set in each transaction, since poolers refuse them when a connection starts. An empty one leaves the server's.
type timeouts struct{ statement, idle string }

// Querier is what SQL runs on: a transaction or, for a single statement, the pool.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Open returns a pool of connections. It asks nothing of the server, which may be away: an error means that the URL is not usable.
//
// A statement is cancelled after 30 seconds, and a transaction that sits idle for 30 seconds loses its connection,
// unless the URL sets statement_timeout and idle_in_transaction_session_timeout otherwise.
func Open(ctx context.Context, c Config) (*DB, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, unusable(c.URL, err)
	}
	setDefaults(config.ConnConfig)
	limits := timeouts{
		statement: takeTimeout(config.ConnConfig.RuntimeParams, "statement_timeout", "30s"),
		idle:      takeTimeout(config.ConnConfig.RuntimeParams, "idle_in_transaction_session_timeout", "30s"),
	}
	config.MaxConnIdleTime = idleTime
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	if c.MaxConns > 0 {
		config.MaxConns = c.MaxConns
	}
	conns, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, unusable(c.URL, err)
	}
	return &DB{pool{conns: conns, timeouts: limits}}, nil
}

// System returns the same connections in the role that sees the rows of all tenants.
func (db *DB) System() *System {
	return &System{pool{conns: db.conns, timeouts: db.timeouts, system: true}}
}

// Close waits until every connection is returned, and closes them.
func (p *pool) Close() { p.conns.Close() }

// MaxConns returns the limit of the pool.
func (p *pool) MaxConns() int { return int(p.conns.Config().MaxConns) }

// Ping reports whether a connection can be had and answers.
func (p *pool) Ping(ctx context.Context) error { return driverError(p.conns.Ping(ctx)) }

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

// takeTimeout takes a parameter out of those that a connection starts with. It returns the default where there is none, and
// nothing where the options set it.
func takeTimeout(params map[string]string, name, value string) string {
	if set, ok := params[name]; ok {
		delete(params, name)
		return set
	}
	if strings.Contains(params["options"], name) {
		return ""
	}
	return value
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
