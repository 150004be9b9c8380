package pg

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/share"
)

const (
	connectLimit  = 5 * time.Second
	rollbackLimit = 5 * time.Second
	// idleTime is how long an unused connection stays open.
	idleTime = 20 * time.Second
	// idleCheck is how often such connections are closed. After each time the pool uses all of its connections once before it
	// keeps to the last one, so that a shorter time than idleTime would keep them all in use.
	idleCheck = 30 * time.Second
	// A connection that was idle for longer than pingAfter is pinged before it is used. Code that polls every second skips
	// the ping.
	pingAfter = 5 * time.Second
)

// Config configures the database.
type Config struct {
	// URL is a PostgreSQL URL. Settings in it (statement_timeout, connect_timeout, pool_max_conns, ...) override the
	// defaults of this package.
	URL string
	// MaxConns limits the pool. Zero leaves it to the URL's pool_max_conns, or to the number of processors, at least 4.
	MaxConns int32
	// Shared has tenants share the connections of the DB: one that holds many does not hold up the others.
	Shared bool
	// Log receives the statements, at debug, and those that take at least Slow as warnings; a Slow of 0 is none. Nil is no log.
	Log  *zap.Logger
	Slow time.Duration
}

// DB runs SQL on behalf of a tenant: every transaction and every statement runs in the role plinth_app for the tenant of its
// context (package auth). Row level security shows it the rows of that tenant only, and no rows if the context has no
// tenant. It is safe for concurrent use.
type DB struct{ pool }

// System runs SQL that concerns all tenants, in the role plinth_system: relays, maintenance and administration, never SQL on
// behalf of a tenant. It is safe for concurrent use.
type System struct{ pool }

// pool is a pool of connections to one database, together with the role that its statements run in.
type pool struct {
	conns    *pgxpool.Pool
	timeouts timeouts
	system   bool
	shares   *share.Pool // of the connections, by tenant; nil if everybody may have all
}

// timeouts are set in each transaction, because poolers refuse them as startup parameters. An empty one leaves the server's
// setting.
type timeouts struct{ statement, idle string }

// Querier runs SQL. It is a transaction or, for single statements, the pool.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Open returns a pool of connections. It does not contact the server, which may be away: an error means that the URL is not
// usable.
//
// A statement is cancelled after 30 seconds, and a transaction that is idle for 10 seconds loses its connection, unless the
// URL sets statement_timeout and idle_in_transaction_session_timeout otherwise: who waits for a row that a stopped process has
// locked gets it before its own statement is cancelled. A statement fails within five seconds if the server is silent.
func Open(ctx context.Context, c Config) (*DB, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, unusable(c.URL, err)
	}
	setDefaults(config.ConnConfig)
	limits := timeouts{
		statement: takeTimeout(config.ConnConfig.RuntimeParams, "statement_timeout", "30s"),
		idle:      takeTimeout(config.ConnConfig.RuntimeParams, "idle_in_transaction_session_timeout", "10s"),
	}
	config.MaxConnIdleTime, config.HealthCheckPeriod = idleTime, idleCheck
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	if c.MaxConns > 0 {
		config.MaxConns = c.MaxConns
	}
	config.ConnConfig.Tracer = statements{cmp.Or(c.Log, zap.NewNop()), c.Slow}
	var opened atomic.Pointer[pgxpool.Pool]
	reset := func() {
		if conns := opened.Load(); conns != nil {
			conns.Reset()
		}
	}
	config.ConnConfig.OnPgError = closeSpent(config.ConnConfig.OnPgError, reset)
	config.ConnConfig.DialFunc = (&silence{dial: config.ConnConfig.DialFunc, found: reset}).connect
	conns, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, unusable(c.URL, err)
	}
	opened.Store(conns)
	db := &DB{pool{conns: conns, timeouts: limits}}
	if c.Shared {
		db.shares = newShares(config.MaxConns)
	}
	return db, nil
}

// closeSpent has a connection closed by a reply after which it is of no use, and all of its pool by one that ends them.
func closeSpent(isGood pgconn.PgErrorHandler, reset func()) pgconn.PgErrorHandler {
	return func(conn *pgconn.PgConn, reply *pgconn.PgError) bool {
		m, _ := meaningOf(reply)
		if m.effect == ends {
			reset()
		}
		return m.effect == keeps && isGood(conn, reply)
	}
}

// System returns the same connections, in the role that sees the rows of all tenants.
func (db *DB) System() *System {
	return &System{pool{conns: db.conns, timeouts: db.timeouts, system: true, shares: db.shares}}
}

// Close blocks until every connection is returned to the pool, and closes them.
func (p *pool) Close() { p.conns.Close() }

// MaxConns returns the most connections that the pool opens.
func (p *pool) MaxConns() int { return int(p.conns.Config().MaxConns) }

// Reset closes every connection: those that are in use once they are returned.
func (p *pool) Reset() { p.conns.Reset() }

// Writable returns an error if no connection is available, the server does not answer, or it takes no writes, as after a
// failover.
func (p *pool) Writable(ctx context.Context) error {
	var readOnly string
	err := p.conns.QueryRow(ctx, `SELECT current_setting('transaction_read_only')`).Scan(&readOnly)
	if err == nil && readOnly == "on" {
		return ErrReadOnly
	}
	return driverError(err)
}

// ErrReadOnly is the error of Writable if the server answers and takes no writes.
var ErrReadOnly = errs.New(errs.Unavailable, "the database is read-only")

// connConfig returns the configuration of connections outside the pool.
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
	if config.ValidateConnect == nil { // Of several hosts, only one takes writes; and one may have become a standby.
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
}

// takeTimeout removes a startup parameter from params and returns its value. If it is not set, takeTimeout returns the
// default value, or "" if the options parameter sets it.
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

// unusable returns an error that says what is wrong with a URL without showing any of it. The driver's own message quotes
// the URL and masks passwords by guesswork, so unusable uses only the innermost error, and only if the URL parses.
func unusable(connURL string, err error) error {
	const form = "not a usable database URL, such as postgres://user:password@host:5432/database?sslmode=verify-full"
	reason := errors.Unwrap(err)
	if _, parseErr := url.Parse(connURL); parseErr != nil || reason == nil {
		return errors.New(form)
	}
	return errors.New(form + ": " + reason.Error())
}
