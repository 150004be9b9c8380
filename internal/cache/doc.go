// Package cache keeps values in Redis until they expire. Whatever is in it may be gone at any time.
//
// # Values of clients
//
// A value is a string under a key of its tenant, with a mark, a version and the bytes; a key that holds anything else has no value,
// and the next Set replaces it. Every key expires. Each change is one script on keys of one slot, so conditions, sums and the
// bytes that a tenant has are as of the same moment.
//
// The bytes of a tenant are counted by when they expire, in steps of about four minutes, so that no key is ever looked for: the
// count is rough. What Redis evicts under memory pressure is counted until it would have expired, and a Redis that lost the count
// begins anew.
//
// # Remember
//
// Remember keeps what a loader returns, under keys of its own. One caller in the cluster has the lease of a key and loads; the lease
// is renewed while the load runs, and what is loaded is stored only if it is still there. In each process the callers of a key share
// one load, or one wait for that of another process, and one poller looks at all that the process waits for. The end of a caller's context ends its wait alone.
//
// An invalidation removes the value and the lease, so a load that began before it is not kept, and goes to callers alone that had
// come before it began. InvalidateTx does that for what a transaction changes:
//
//  1. With the other statements, a row of message_waiting is inserted, which is due in two seconds.
//  2. Right before the commit the keys are marked: value and lease are removed, and until the mark ends, loads are not kept.
//  3. After the commit value and lease are removed once more, the mark ends, and the row is canceled, with others. If the process cannot, the
//     relay of another one does it when the row is due. After a rollback there is neither mark nor row; if the outcome of a commit is
//     unknown, the mark ends after 10 seconds, and the row decides.
//
// So what a call may return that begins after the commit is bounded:
//
//   - Nothing old while Redis is reachable and has the mark.
//   - Where Redis lost the mark (a flush, a failover), or the writer could not reach it: nothing old once the writer has invalidated,
//     a round trip after its commit, or else once the relay has, two seconds after it.
//   - Where nobody reaches Redis there is no cache: each process loads for itself.
//   - Where Redis is back, after an outage in which no process could invalidate, before the relay has tried again, up to ten seconds.
//
// Redis copies to replicas after it has answered. A failover that loses an invalidation, and not the value, leaves the value until its
// TTL ends. A loader that reads a replica of the database says by how much that may lag, with Lag.
//
// Near keeps what Remember returns in the memory of the process as well. An invalidation in that process removes it at once, also that of a
// transaction; one in another process is not heard of: then the bounds above are longer by the maxAge of the call. What is not kept in Redis
// is not near.
//
// # Without Redis
//
// If Redis is away, a call of a client ends with errs.Unavailable after 90 ms, or later for what is large, and at once while that is known
// (kv.Guard). It is never taken for a key without a value. A change whose reply did
// not come may have been made. Remember waits for 50 ms, once, and loads.
package cache
