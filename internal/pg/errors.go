package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"plinth/internal/errs"
)

// A connection that gets some replies is of no use any more.
const (
	keeps  = iota // the connection is as good as before
	spends        // the connection is closed
	ends          // all connections of the pool are closed: the server, as they know it, is gone
)

// meaning is what an error reply of the server means.
type meaning struct {
	kind    errs.Kind
	message string
	effect  int
}

// Messages of several replies.
const (
	away        = "the database is not available"
	notText     = "a text has the character U+0000 or is not UTF-8, which cannot be stored"
	inTheWay    = "a concurrent transaction was in the way; try again"
	notMigrated = "the database is not migrated yet"
	tooLong     = "the database gave up what took too long; try again"
)

// replies are the error replies that say something about the server, by their SQLSTATE or by its class, which is the first two
// characters, and those that refuse a text. A caller that checks a text by IsText can name its field, which PostgreSQL does not. All
// other replies are about a statement, and left to whoever sent it.
var replies = map[string]meaning{
	"08":    {errs.Unavailable, away, spends},       // connection_exception
	"22021": {errs.InvalidArgument, notText, keeps}, // character_not_in_repertoire
	"22P05": {errs.InvalidArgument, notText, keeps}, // untranslatable_character, in JSON
	"25006": {errs.Unavailable, away, ends},         // read_only_sql_transaction: a standby, or what was the primary
	"25P03": {errs.Unavailable, tooLong, spends},    // idle_in_transaction_session_timeout
	"25P04": {errs.Unavailable, tooLong, spends},    // transaction_timeout
	"40001": {errs.Aborted, inTheWay, keeps},        // serialization_failure
	"40003": {errs.Unavailable, away, spends},       // statement_completion_unknown
	"40P01": {errs.Aborted, inTheWay, keeps},        // deadlock_detected
	"42703": {errs.Unavailable, notMigrated, keeps}, // undefined_column
	"42P01": {errs.Unavailable, notMigrated, keeps}, // undefined_table
	"53":    {errs.Unavailable, away, spends},       // insufficient_resources: memory, disk, connections
	"55P03": {errs.Unavailable, tooLong, keeps},     // lock_not_available
	"57":    {errs.Unavailable, away, ends},         // operator_intervention: shutdown, crash, start
	"57014": {errs.Unavailable, tooLong, keeps},     // query_canceled, by statement_timeout or by an administrator
	"57P05": {errs.Unavailable, away, spends},       // idle_session_timeout
	"58":    {errs.Unavailable, away, spends},       // system_error: what the server stands on
}

// meaningOf returns what an error reply means, and reports whether it is about the server.
func meaningOf(reply *pgconn.PgError) (m meaning, known bool) {
	if m, known = replies[reply.Code]; known {
		return m, true
	}
	if reply.Code == "22023" && strings.HasPrefix(reply.Message, "role ") { // The roles come with the schema.
		return replies["42P01"], true
	}
	m, known = replies[reply.Code[:min(len(reply.Code), 2)]]
	return m, known
}

// driverError classifies an error that came from the driver, where a network error can only mean the database.
func driverError(err error) error {
	// The pool returns the bare context error if no connection became free in time. Errors on a connection are wrapped by
	// the driver.
	if err == context.DeadlineExceeded {
		return errs.Wrap(err, errs.Unavailable, away)
	}
	var network *net.OpError
	lost := errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, puddle.ErrClosedPool) || errors.As(err, &network)
	return classify(err, lost)
}

// classify returns err with its kind. lost reports whether the connection is gone.
func classify(err error, lost bool) error {
	var known *errs.Error
	var connect *pgconn.ConnectError
	var reply *pgconn.PgError
	switch {
	case err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &connect): // its own time limit is also a context.DeadlineExceeded
		return errs.Wrap(err, errs.Unavailable, away)
	case errors.As(err, &reply):
		if m, about := meaningOf(reply); about {
			return errs.Wrap(err, m.kind, "%s", m.message)
		}
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return err
	case lost:
		return errs.Wrap(err, errs.Unavailable, away)
	default:
		return err
	}
}
