// Package amqp implements the broker on RabbitMQ, 3.10 or newer, over AMQP 0-9-1.
//
// # Connections
//
// Run maintains two connections: one that only publishes, and one for everything else. RabbitMQ slows publishers down, and
// in an alarm stops reading from them altogether; neither may delay an acknowledgement. Each link goes through these states,
// independently of the others:
//
//	dialing ── handshake done ──▶ up ── socket, heartbeat or protocol error ──▶ backing off ──▶ dialing …
//
// This repeats until Run's context ends. The client library can recover connections by itself, but that is not used: it does
// not resend publications, and whatever is unconfirmed or outstanding when a connection is lost must be settled here.
//
// # Publishing
//
// One goroutine writes to one channel in confirm mode, with at most 256 unconfirmed publications on it. A publication goes
// through these states:
//
//	waiting ── written ──▶ unconfirmed ── confirmed ──▶ nil
//	   │                        ├────────── returned, then confirmed ──▶ broker.ErrNoQueue
//	   │                        ├────────── refused ──▶ broker.ErrFull
//	   │                        └────────── the channel was lost ──▶ errs.Unavailable, outcome unknown
//	   └── its caller leaves: it is not published
//
// A caller may leave at any time. The publication's place in the window stays taken until RabbitMQ answers, the channel is
// lost or another channel takes over from it. A channel goes through these states:
//
//	publishing ── a confirm overdue, over 6 s ──▶ retired ── all confirmed, or 5 s later ──▶ closed
//	     └────────────── lost: the link connects anew ──▶ closed
//
// A channel is retired because RabbitMQ can leave it stuck: what was written while a queue elected its leader is then
// neither confirmed nor refused, and neither is anything written later from that channel to that queue. Once a confirm is
// overdue, the publisher continues on a new channel of the same connection, so the Generation does not change. The old
// channel stays open for what it may still confirm, so that publications to other queues are not lost, and is closed once
// their callers have left too. A queue that confirms nothing for other reasons, such as one without a majority, costs a new
// channel every few seconds. During an alarm nothing is overdue, since RabbitMQ does not read then.
//
// RabbitMQ may answer a publication with the end of its channel, for example because the body exceeds the server's
// max_message_size. So a body that is larger than any that was confirmed over the connection is tried on a channel of its own. If
// RabbitMQ closes the channel for publishing all the same, or the connection, with a reply, each unconfirmed publication is tried
// alone, once, as long as its caller waits; those to topics only on the same connection.
//
// Tenants take turns, publication by publication.
//
// The attributes of a message are a table in the header "attributes". The service's own headers have the prefix "plinth-" on
// the wire, except for traceparent and tracestate, which other programs may want to read.
//
// # Queues
//
// All queues are durable quorum queues. An existing queue with other arguments is not changed; declaring it fails with
// errs.FailedPrecondition. A queue with a MaxLength refuses further messages (x-overflow is reject-publish); once it was
// full, RabbitMQ takes messages again only when a fifth of it is empty.
//
// RabbitMQ writes the name of a new queue to disk up to a second after it has answered the declaration (dets, with an
// auto_save of 500 ms). If a node is killed before then, it comes back with a queue that never elects a leader: the messages
// it had confirmed are lost, and it confirms nothing any more. Only a queue with members on other nodes is safe from that.
// The remedy is to delete the queue, which is answered late, and to declare it again.
//
// Messages to queues go by a durable direct exchange, plinth.queues, to which each queue is bound by its name. A queue is unbound a moment
// before it is deleted: RabbitMQ 3 ends the connection of a channel that publishes its first message to a queue which is being deleted.
//
// # Topics
//
// All topics share one durable topic exchange, plinth.topics, which each connection for publishing and each Bind declares, as
// they do that of the queues. The routing key on the wire is the topic, with "/" in place of its dots, followed by a dot and the
// message's own routing key if it has one.
//
// # Subscriptions
//
// Each subscription has a channel of its own, whose prefetch is the credit. A delivery can be settled only on that channel,
// so once the channel is lost, settling does nothing and returns errs.Unavailable, and RabbitMQ delivers the message again.
// Meanwhile the subscription waits for its link and consumes on a new channel; it ends only with Close, with Run, or with
// its queue.
//
// RabbitMQ counts a delivery that ends with its channel like one that is returned, whether Receive returned it or it waited
// behind others within the credit. Stop cancels the consumer first; what the queue sent in that very moment is returned by RabbitMQ and
// counted. A connection has room for the server's channel_max, less a few channels for everything
// else; if that is not enough, more connections are opened.
package amqp
