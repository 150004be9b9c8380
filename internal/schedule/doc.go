// Package schedule publishes messages, sends HTTP requests and runs jobs at planned times.
//
// The promise: each planned time, a fire time, has exactly one run, or lies in exactly one run that stands for a range of fire times:
// a missed one, or one that was skipped for a pause. A run's message is published with the run, once.
//
//	                 its fire time has come
//	schedule ──────────────────────────────────► claimed ──► running ──► succeeded
//	    │                                          ▲ │           │  ├───► failed
//	    │ overlap, quota, pause: skipped           │ │           │  └───► cancelled
//	    │ no worker came: missed (a range)         │ └─ waits    │
//	                                               └─────────────┘ failed attempt, after a back-off; worker lost
//
// A transaction claims schedules that are due, with their rows locked (FOR NO KEY UPDATE SKIP LOCKED). It writes their runs, publishes
// the messages of these through message.PublishBatchTx, and moves the fire times, all or nothing. The unique index of schedule_runs on
// schedule and fire time, which is the planned time and knows no jitter, refuses what would fire twice all the same. Time is
// PostgreSQL's alone: a worker's clock only says how long to sleep. Tenants get equal shares of each batch.
//
// The run of a message is over with its transaction, unless publishing failed and is to be tried again. Requests and jobs take their time: a run
// of theirs starts in a worker with a lease, which that renews, and a fencing token that is larger than all before it. What it writes
// in a transaction with Fence is refused once the run is not its own any longer.
//
// The service's own jobs, of all domains, are schedules that are built in: they run on gocron with a lock in Redis, which only saves work,
// since their effects are idempotent, and each run of theirs is recorded as those of others are.
//
// What happens when
//   - a worker dies or stands still: the row locks of a transaction end with its connection, and nothing of it has happened. A run
//     that it was at starts again, or fails, when its lease is over (OnWorkerLoss); one that loses several workers fails.
//   - no worker runs: fire times pass. The first worker that comes catches up as the schedule's policy says; what it does not run is
//     one missed run, a row for up to 100,000 fire times.
//   - a clock is wrong: a worker's does not matter. If PostgreSQL's is set back, no fire time comes twice, since none is claimed
//     that is not later than all before.
//   - the broker is away: messages wait in message_waiting, as any others do.
//   - PostgreSQL is away: nothing fires, and jobs end when their leases do.
//   - a schedule cannot be planned or fired: it alone is left alone for a while, longer each time, and Get tells why.
//   - somebody asks for a backfill: all of its runs are made in one transaction, and queued. The transaction that ends a run of the
//     schedule starts what may have its turn then, so no more are under way than it asked for, whichever workers they are at.
//   - the rules of a time zone change: a worker that starts with others than a next fire time was computed by computes it anew.
//   - a schedule is late, or has not succeeded for too long: its alert tells once, in a transaction that remembers it, and again only
//     once it has recovered.
//   - a schedule changes: fire times that are past keep their runs, even those that their jitter delays. Running runs keep the version
//     of the definition that they began with.
//   - a notification is lost that tells other processes of a change: what pauses, updates or deletes a schedule holds at once all the
//     same, since whoever fires it locks its row. What comes due earlier than known is found after 3.5 s (pg.Due), and a worker notices a
//     cancelled run when it renews its lease, after a third of it, 5 s.
//   - a schedule is paused: running runs go on, and so do those that wait for them. Fire times within the pause are one skipped run,
//     written when it ends.
//   - a schedule is deleted, or CancelRun or the overlap policy cancel_other ends a run: a running job's context is cancelled, its
//     token is refused from then on, and a run that waits for it starts when it has ended or its lease is over.
package schedule
