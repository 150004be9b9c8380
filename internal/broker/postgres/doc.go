// Package postgres is the message broker for those who have no RabbitMQ: queues are rows in PostgreSQL.
//
// A message that was published to a topic is a row for each of its queues. Each row is in one of four states, and only
// the database's clock decides which:
//
//	ready   available_at is past. Whoever claims it first (FOR UPDATE SKIP LOCKED) gets it.
//	leased  available_at is ahead and lease names the claim. Its broker pushes available_at ahead every 5 seconds, for
//	        as long as the delivery is outstanding.
//	expired available_at and expires_at are past: it waited for longer than its queue's MessageTTL. Nobody claims or
//	        counts it, and one broker deletes such rows every 5 seconds. What is leased does not expire, but what is
//	        given back after its time does.
//	gone    acknowledged, purged, or deleted with its queue: the row is deleted.
//
// A leased message becomes ready again
//   - at once, when it is nacked, when its Subscription is closed, and when Run ends;
//   - when its broker's listening connection broke, as soon as there is a new one: that connection stands for the client
//     just as an AMQP connection does;
//   - after at most 15 seconds, when its process died or could not reach the database.
//
// Every claim has a lease of its own, so that a settlement that comes late never touches a newer delivery.
//
// An attempt is a delivery that was received, however it ended: a message that kills its process counts up. The claim
// counts the first attempt ahead, and giving back takes it away where nobody received the message. All later attempts are
// counted one by one as they are received. So the death of a process counts for a message that it had claimed and not
// received at most once in all, and only as its first attempt.
//
// Publishing is as durable as the database's commits. Claims, acks, nacks and expiry do not wait for the disk
// (synchronous_commit = off): a crash of the database within less than a second of one means a redelivery.
//
// Publishes and acks of many callers share one statement each. It counts a queue with a MaxLength, up to that many rows,
// before it adds to it: one process alone never passes the limit, several may, each by one batch. Subscriptions are woken
// by a notification after a commit, and by a poll each second, which also finds the leases that ran out: one of each queue in
// each process, in turn (see line). Processes take turns as well (see turn).
package postgres
