// Package message publishes messages to queues and has them handled, at least once.
//
// The promise: a message whose id Publish answered is held durably by the broker until a consumer acknowledges it.
//
// Which queues exist is decided by the table queues; the broker's own queues follow it. A broker that does not know a
// queue of the table, since it came back empty, is told of it by the first call that notices.
//
//	published ──► waiting ──► outstanding ──► acknowledged (gone)
//	                 ▲             │
//	                 └─────────────┘ nack, lease over, stream or process ended, connection lost
//
// What happens when
//   - the broker is away: Publish answers unavailable, and the message may or may not be kept; consumers wait and go on
//     by themselves.
//   - Postgres is away: known queues work on; unknown ones, and everything that changes queues, answer unavailable.
//   - a handler fails or panics: the message stays outstanding for a back-off that grows with its attempts, then goes back
//     to the queue. It is tried for ever, and takes a place of the consumer's credit while it waits.
//   - a process dies: what was outstanding there is delivered again.
package message
