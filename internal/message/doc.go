// Package message publishes messages to queues and topics and has them handled, at least once.
//
// The promise: a message whose id Publish answered is held durably, by the broker or in Postgres, until a consumer
// acknowledges it or it becomes a dead letter.
//
//	            delayed, keyed, in a transaction
//	published ───────────────────────────────────► waiting ◄────────────────┐ attempt failed: after a back-off
//	    │                                             │ due: relay          │
//	    └──────────────► in the queue ◄───────────────┘                     │
//	                       ▲      │ delivered                               │
//	  stream ended, lease  │      ▼                                         │
//	  over, connection lost└── outstanding ──► nack, error, panic, crash ───┤
//	                              │ ack                                     │ last attempt, or no retry helps
//	                              ▼                                         ▼
//	                             gone                                 dead letter ──► redriven (waiting), purged, expired
//
// The tables decide which queues and bindings exist; the broker follows them. A broker that came back empty does not know the
// queues of the tables: the first call that notices declares the queue again. The queues of a topic are declared before the
// first message to it in each of the broker's generations (topology.go).
//
// Tenants share the tables and the broker, and see nothing of each other. A call acts for the tenant of its context (package
// auth), in a role for which PostgreSQL limits the rows to that tenant's (package pg). Names on the broker begin with the
// tenant. The relay, the maintenance, and the rates and pauses that a process knows cover all tenants at once; what follows
// from a row is done as the row's tenant. A handler handles the queue of its name of every active tenant.
//
// A message carries its tenant in a header. A message of an older release has no such header and belongs to the tenant of its
// queue. A message that names another tenant was put in the queue without this service: it becomes a dead letter of the queue,
// without its payload, and neither a handler nor a stream sees it.
//
// What happens when
//   - the broker is away: Publish answers unavailable, and the message may or may not be kept; with an idempotency key it
//     is kept in Postgres all the same. The relay and the consumers wait and go on by themselves.
//   - Postgres is away: publishing to known queues and consuming go on for callers that need no lookup (package auth): the
//     service itself, and streams that are open. Calls on waiting messages, and calls that change queues, answer unavailable.
//     A failed message keeps its place until it can be moved, and a message that a stream's client nacked stays outstanding
//     for another ack deadline.
//   - an attempt fails: one transaction reads the queue's policy and moves the message to message_waiting or dead_letters, and
//     then its delivery is acknowledged. After a crash between the two the message is moved once more, into the same row.
//   - a consumer that pulled does not settle: its message is a row of message_waiting that is due at the end of the lease. The
//     relay counts the attempt, and publishes the message or makes a dead letter of it, whichever processes have died.
//   - a process dies while it gives a message to a pull: before the row is committed, the broker delivers the message again;
//     afterwards the row is the truth, and the broker's copy is dropped.
//   - an endpoint that is pushed to is overloaded or down: its messages stay in the queue, and come to other consumers, while the
//     worker makes no calls; one that was refused with 429 or 503 waits as one that a handler snoozed (endpoint.go).
//   - a process dies: its outstanding messages are delivered again, and each such delivery counts as an attempt. A handler's
//     message that comes again waits for the back-off first. If that was not its first failure, it is handled while no other
//     such message is being handled in the same process, so that a message that kills its process neither loops nor makes the
//     same other messages fail each time.
//   - a process gives back what nobody was given, because of a pause, a consumer that does not read, or its own end: the table
//     message_uncounted notes that the delivery, which the broker counts, is no attempt. A crash, and the loss of the connection to
//     the broker, count for all that was outstanding.
//   - a handler is cut off by the end of the process: the message is given back, and no failure is recorded.
//   - a topic has no binding when a message to it is due: the message waits on, longer each time, until there is one.
//   - the relay dies: the end of its transaction releases what it had claimed. Messages that the broker had already confirmed
//     are published twice; handlers with a transaction have the effect once (message_handled).
//   - a queue is paused: nothing is received; outstanding messages can be settled, and the others go back to the queue at once.
//   - a queue is deleted: its messages, its waiting messages and its dead letters are removed in small steps, and its
//     subscriptions end. Until everything is gone nothing of it is visible, and the name is not free.
//   - a tenant is no longer active: its handlers take no more messages, and finish what they hold as at the end of the process.
//     Its queues and messages stay.
package message
