// Package postgres implements the message broker without RabbitMQ: queues are rows in PostgreSQL.
//
// A message that was published to a topic is one row for each of its queues. Each row is in one of four states, which only
// the database's clock decides:
//
//	ready   lease is null. Whoever claims it first (FOR UPDATE SKIP LOCKED) gets it.
//	leased  lease names the claim, until available_at. Its broker pushes available_at ahead every 5 seconds, for as long as the
//	        delivery is outstanding.
//	expired lease is null and expires_at is past: it waited for longer than its queue's MessageTTL. Nobody claims or
//	        counts it, and one broker deletes such rows every 15 seconds. What is leased does not expire, but what is
//	        given back after its time does.
//	gone    acknowledged, purged, or deleted with its queue: the row is deleted.
//
// A leased message becomes ready again
//   - at once, when it is nacked, when its Subscription is closed, and when Run ends;
//   - when its broker's listening connection broke, as soon as there is a new one: that connection represents the client
//     just as an AMQP connection does;
//   - after at most 15 seconds, when its process died or could not reach the database: the polls of all brokers look for leases
//     that ran out.
//
// Every claim has a lease of its own, so that a late settlement never affects a newer delivery.
//
// An attempt is a delivery that was received, however it ended, so a message that kills its process is counted. The claim
// counts the first attempt in advance; if nobody received the message, returning it undoes that. All later attempts are
// counted one by one as they are received. Therefore the death of a process counts at most once in all, and only as the
// first attempt, for a message that the process had claimed but not received.
//
// A subscription claims as much as its credit allows, in messages and in bytes: 16 MiB, or one message, and all subscriptions of a
// process together 256 MiB, or one message each.
//
// Publishing is as durable as the database's commits. Claims, acks, nacks and expiry do not wait for the disk
// (synchronous_commit = off): a crash of the database within less than a second of one means a redelivery. Neither does a relay's
// batch, whose rows are removed by a commit behind it in the same log.
//
// Many callers' publishes share one statement, in which tenants take turns, and so do their acks. Batches have statements of their own, so
// that a message does not wait for a relay's. The row of a queue with a MaxLength has how many more messages there is room for. When that is
// used up, one of the processes that publish counts the messages, in the background, and no more often than every twenty times as long as
// that takes. Subscriptions are woken by a notification after a commit, by a poll every three seconds, and by what looks for leases that ran
// out. In each process one subscription of each queue is woken, in turn (see line). Processes take turns as well (see turn).
package postgres
