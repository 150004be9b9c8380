// Package pg is the service's way to PostgreSQL: the pool, transactions, migrations, and wake-ups through LISTEN and
// NOTIFY.
//
// Errors of the database are classified here, once, and nowhere else:
//
//   - No connection can be had, it broke, or the server refuses work (SQLSTATE classes 08 and 53, and 57P: shutting
//     down, crashed, starting up, database dropped): errs.Unavailable. Where it was a commit that broke, the outcome is
//     unknown.
//   - A serialization failure or a deadlock (40001, 40P01): errs.Aborted. Nothing was written, and the same transaction
//     may succeed when it is run again from its start.
//   - Everything else, constraint violations and the context's own errors among them, passes through untouched.
//
// A server that is away is never a reason to stop: the pool connects when it is asked for a connection, and Listen
// connects again for ever.
package pg
