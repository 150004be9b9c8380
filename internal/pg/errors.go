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

// driverError classifies an error that came from the driver, where a network error can only mean the database.
func driverError(err error) error {
	// The pool returns the bare context error if no connection became free in time. Errors on a connection are wrapped by
	// the driver.
	if err == context.DeadlineExceeded {
		return unavailable(err)
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
		return unavailable(err)
	case errors.As(err, &reply):
		return classifyReply(err, reply)
	case errors.Is(err, context.DeadlineExceeded):
		return err
	case lost:
		return unavailable(err)
	default:
		return err
	}
}

func classifyReply(err error, reply *pgconn.PgError) error {
	switch code := reply.Code; {
	case code == "40001" || code == "40P01":
		return errs.Wrap(err, errs.Aborted, "a concurrent transaction was in the way; try again")
	case strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P"):
		return unavailable(err)
	case code == "42P01" || code == "42703" || code == "22023" && strings.HasPrefix(reply.Message, "role "): // no such table, column, role
		return errs.Wrap(err, errs.Unavailable, "the database is not migrated yet")
	default:
		return err
	}
}

func unavailable(cause error) error {
	return errs.Wrap(cause, errs.Unavailable, "the database is not available")
}
