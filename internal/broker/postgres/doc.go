// Package postgres is the message broker for those who have no RabbitMQ: queues are rows in PostgreSQL.
//
// A message is in one of three states, and only the database's clock decides which:
//
//	ready   available_at is past. Whoever claims it first (FOR UPDATE SKIP LOCKED) gets it.
//	leased  available_at is ahead and lease names the claim. Its broker pushes available_at ahead every 5 seconds, for
//	        as long as the delivery is outstanding.
//	gone    acknowledged, or deleted with its queue: the row is deleted.
//
// A leased message becomes ready again
//   - at once, when it is nacked, when its Subscription is closed, and when Run ends;
//   - when its broker's listening connection broke, as soon as there is a new one: that connection stands for the client
//     just as an AMQP connection does;
//   - after at most 15 seconds, when its process died or could not reach the database.
//
// Every claim has a lease of its own, so that a settlement that comes late never touches a newer delivery. A delivery
// that was claimed and given back before anybody received it does not count as an attempt.
//
// Publishing is as durable as the database's commits. Claims, acks and nacks do not wait for the disk
// (synchronous_commit = off): a crash of the database within less than a second of one means a redelivery.
//
// Publishes and acks of many callers share one statement each. Subscriptions are woken by a notification after a commit,
// and by a poll each second, which also finds the leases that ran out.
package postgres
