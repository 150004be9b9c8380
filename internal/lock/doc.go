// Package lock gives out locks: a name that one client has at a time, for as long as its lease lasts.
//
// The promise of a correct lock, which is a row in Postgres:
//
//   - At most one lease of a lock is valid at a time, by the clock of Postgres alone.
//   - Each lease has a fencing token that is greater than all that were given for the lock before: greatest(last + 1, clock in
//     microseconds). Where the last one is gone, with the row or in a backup that was restored, the clock makes it greater; where
//     the clock was set back, the last one, or the floor that is raised before a row goes. Both together fail only where a backup
//     is restored and the clock is set back behind it.
//   - Who waits gets the lock in the order of arrival, and nobody passes them.
//   - What a transaction wrote that ends with Guard was written by who had the lock when it was committed.
//
// The promise of a fast lock, which is a key in Redis: usually one client has it at a time. It saves work, and nothing may depend on
// it.
//
//	               free, or its lease has ended, and nobody was earlier
//	Acquire ─────────────────────────────────────────────────────────────► held ──► Release, ForceRelease ──► free
//	   │ held, or others wait                                             ▲  │ ▲                               │
//	   ▼                           woken, or looks by itself              │  └─┘ Renew            the end of its lease
//	waiting (a row) ──────────────────────────────────────────────────────┘
//	   │ wait is over, caller gone
//	   ▼
//	 gone
//
// One statement decides whether a caller gets a lock: it takes it, or writes the caller's row among the waiters. A waiter holds no
// connection. Who releases a lock sees the first waiter and wakes it, through a notification if it waits in another process. A
// process with waiters has one row for each of their tenants, its heartbeat, and asks in the same statement every second whether it is
// the turn of one of them: that finds leases that ended by themselves, notifications that were lost, and the turn of those whose
// forerunners were killed. The rows of a process that is killed lapse together.
//
// What happens when
//   - a holder is killed: its lease ends with its TTL, and the first waiter gets the lock.
//   - a holder is stopped for longer than its TTL: its context has ended when it goes on, its renewal is refused, and Guard fails. It
//     cannot be kept from writing to other places: those have to refuse its token (docs/locks.md).
//   - a renewal fails: it is tried again until the lease ends. A lease that has ended is not renewed, even if the lock is free.
//   - Postgres is away or restarted: leases last, waiters keep their rows and go on when it is back, callers that do not wait are told
//     that it is away. Where it was away for longer than a TTL, the lease has ended.
//   - the clock of Postgres is set back: a lease would last longer by as much; whoever asks for the lock shortens it to its TTL, from
//     then on. Set ahead: leases end early, and who has one finds out at its renewal or by Guard.
//   - a waiter is killed: it delays those behind it by lapse and beatEvery, if its turn comes meanwhile.
//   - a call is lost or repeated: a caller that names its lease gets the same one again, or its place. A lease that the caller did
//     not name and has not heard of is ended.
//   - a process stops: its waiters are told to call elsewhere, and keep their places if they named their leases.
//   - Redis is away: fast locks are unavailable, at once after the first call. Nothing waits for it, and correct locks go on.
//   - a tenant is disabled: nobody renews its leases, so they end with their TTL.
//   - a tenant is deleted: the rows of its locks and waiters go with it.
package lock
