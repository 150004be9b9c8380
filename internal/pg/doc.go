// Package pg is the service's access to PostgreSQL: the pool, transactions, migrations, and notifications through LISTEN and
// NOTIFY.
//
// Database errors are classified here and nowhere else:
//
//   - No connection is available, it broke, or the server refuses work (SQLSTATE classes 08 and 53, and 57P: shutting
//     down, crashed, starting up, database dropped): errs.Unavailable. If a commit broke, its outcome is unknown.
//   - A serialization failure or a deadlock (40001, 40P01): errs.Aborted. Nothing was written, and the same transaction
//     may succeed when it is run again from its start.
//   - All other errors, including constraint violations and the context's own errors, are returned unchanged.
//
// A server that is away is never a reason to exit: the pool connects when it is asked for a connection, and Notifier
// reconnects forever.
package pg
