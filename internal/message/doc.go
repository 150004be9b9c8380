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
// Which queues and bindings exist is decided by tables; the broker's own follow them. A broker that does not know a queue
// of the table, since it came back empty, is told of it by the first call that notices; the queues of a topic are
// declared before the first message to it in each of the broker's generations (topology.go).
//
// Tenants share the tables and the broker, and see nothing of each other. What is asked for is done as the tenant of its
// context (package auth), in a role whose rows PostgreSQL limits to that tenant's (package pg); names on the broker begin with
// the tenant. The relay, the maintenance, and the rates and pauses that a process knows are of all tenants at once; what
// follows from a row is done as the row's tenant. A handler handles its queue of every active tenant.
//
// A message carries its tenant in a header. One without it, of an older release, has the tenant of its queue. One that
// names another was put in the queue past this service: it becomes a dead letter of the queue, without its payload, and
// neither a handler nor a stream gets to see it.
//
// What happens when
//   - the broker is away: Publish answers unavailable, and the message may or may not be kept; with an idempotency key it
//     is kept in Postgres all the same. The relay and the consumers wait and go on by themselves.
//   - Postgres is away: publishing to known queues and consuming go on, for whom nobody has to look up (package auth): the
//     service itself, and streams that are open. Everything that waits, and everything that changes queues, answers
//     unavailable. A failed message keeps its place until it can be moved, and one that a stream's client gave back stays
//     outstanding for another ack deadline.
//   - an attempt fails: one transaction reads the queue's policy and moves the message to message_waiting or dead_letters, and
//     then its delivery is acknowledged. A crash between the two moves it once more, into the same row.
//   - a process dies: what was outstanding there is delivered again, and counts as an attempt. A handler's message that comes
//     again so waits for the back-off first. If that was not its first failure, it is handled while no other such message is in
//     the same process: one that kills its process neither loops nor drags the same others along each time.
//   - a handler is cut off by the end of the process: the message is given back, and no failure is recorded.
//   - the relay dies: what it had claimed is unclaimed by the end of its transaction. What the broker had confirmed
//     meanwhile is published twice; handlers with a transaction have the effect once (message_handled).
//   - a queue is paused: nothing is received; what is outstanding can be settled, and the rest goes back.
//   - a queue is deleted: its messages, those that wait and its dead letters go with it, in small steps, and its subscriptions
//     end. Until all of it is gone nothing of it is seen, and the name is not free.
//   - a tenant is no longer active: its handlers take no more, and finish what they hold as at the end of the process. Its
//     queues and messages stay.
package message
