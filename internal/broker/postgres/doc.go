// Package postgres implements the message broker without RabbitMQ: queues are rows in PostgreSQL.
//
// A message that was published to a topic is one row for each of its queues. Each row is in one of four states, which only
// the database's clock decides:
//
//	ready   available_at is past. Whoever claims it first (FOR UPDATE SKIP LOCKED) gets it.
//	leased  available_at is ahead and lease names the claim. Its broker pushes available_at ahead every 5 seconds, for
//	        as long as the delivery is outstanding.
//	expired available_at and expires_at are past: it waited for longer than its queue's MessageTTL. Nobody claims or
//	        counts it, and one broker deletes such rows every 15 seconds. What is leased does not expire, but what is
//	        given back after its time does.
//	gone    acknowledged, purged, or deleted with its queue: the row is deleted.
//
// A leased message becomes ready again
//   - at once, when it is nacked, when its Subscription is closed, and when Run ends;
//   - when its broker's listening connection broke, as soon as there is a new one: that connection represents the client
//     just as an AMQP connection does;
//   - after at most 15 seconds, when its process died or could not reach the database.
//
// Every claim has a lease of its own, so that a late settlement never affects a newer delivery.
//
// An attempt is a delivery that was received, however it ended, so a message that kills its process is counted. The claim
// counts the first attempt in advance; if nobody received the message, returning it undoes that. All later attempts are
// counted one by one as they are received. Therefore the death of a process counts at most once in all, and only as the
// first attempt, for a message that the process had claimed but not received.
//
// Publishing is as durable as the database's commits. Claims, acks, nacks and expiry do not wait for the disk
// (synchronous_commit = off): a crash of the database within less than a second of one means a redelivery.
//
// Many callers' publishes share one statement, and so do their acks. For a queue with a MaxLength, the statement counts up
// to that many rows before it adds to the queue. So a single process never exceeds the limit; several may, each by one
// batch. Subscriptions are woken by a notification after a commit, and by a poll every two seconds, which also finds the leases
// that ran out. In each process one subscription of each queue is woken, in turn (see line). Processes take turns as well
// (see turn).
package postgres
