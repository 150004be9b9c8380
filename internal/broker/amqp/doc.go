// Package amqp is the broker on RabbitMQ, 3.10 or newer, over AMQP 0-9-1.
//
// # Connections
//
// Run holds two: one that only publishes, and one for everything else. RabbitMQ pushes back on a publisher, and in an
// alarm stops to read from it altogether, and neither may hold up an acknowledgement. Each link goes its own way:
//
//	dialing ── handshake done ──▶ up ── socket, heartbeat or protocol error ──▶ backing off ──▶ dialing …
//
// for ever, until Run's context ends. The client library can recover connections by itself and is not asked to: it
// resends no publication, and what is unconfirmed or outstanding at a loss must be settled here.
//
// # Publishing
//
// One goroutine writes to one channel in confirm mode, with at most 256 publications unconfirmed on it. A publication goes
//
//	waiting ── written ──▶ unconfirmed ── confirmed ──▶ nil
//	   │                        ├────────── returned, then confirmed ──▶ broker.ErrNoQueue
//	   │                        ├────────── refused ──▶ broker.ErrFull
//	   │                        └────────── the channel was lost ──▶ errs.Unavailable, outcome unknown
//	   └── its caller leaves: it is not published
//
// A caller may leave at any time. Its place in the window stays taken until RabbitMQ answers, the channel is lost or
// another takes over from it. The channel goes
//
//	publishing ── a confirm overdue, over 6 s ──▶ retired ── all confirmed, or 5 s later ──▶ closed
//	     └────────────── lost: the link connects anew ──▶ closed
//
// since RabbitMQ can leave a channel stuck: what was written while a queue elected its leader is then neither confirmed nor
// refused, and nor is anything after it from that channel to that queue. Once a confirm is overdue, the publisher goes on
// over a new channel of the same connection, which keeps its Generation. The old one stays open for what it may still
// confirm, so that publications to other queues lose nothing, and is closed when their callers have left too. A queue
// that confirms nothing for other reasons, as one without a majority does, costs a new channel every few seconds. In
// an alarm nothing is overdue, since RabbitMQ does not read then.
//
// A publication that RabbitMQ answers with a channel error, such as a body above the server's max_message_size, takes
// the unconfirmed ones of the same moment with it; the link then connects anew.
//
// A message has its attributes in a table, the header "attributes". The service's own headers have the prefix "plinth-"
// on the wire, but for traceparent and tracestate, which others may want to read.
//
// # Queues
//
// All are durable quorum queues. One that exists with other arguments is not touched: errs.FailedPrecondition. A queue
// with a MaxLength refuses what is over it (x-overflow is reject-publish); once it was full, RabbitMQ takes messages again
// when a fifth of it is empty.
//
// RabbitMQ writes the name of a new queue to disk up to a second after it has answered the declaration (dets, with an
// auto_save of 500 ms). A node that is killed before then comes back with a queue that never elects a leader: what it had
// confirmed is lost, and it confirms nothing any more. Only a queue with other members elsewhere is safe from that. It takes
// deleting it, which is answered late, and declaring it anew.
//
// # Topics
//
// All share one durable topic exchange, plinth.topics, which each connection for publishing and each Bind declares. The
// routing key on the wire is the topic, with "/" for its dots, and after another dot the message's own, where it has one.
//
// # Subscriptions
//
// Each has a channel of its own, whose prefetch is the credit. A delivery can be settled on that channel alone, so once
// the channel is lost settling gives errs.Unavailable and does nothing, and RabbitMQ delivers the message again. The
// subscription meanwhile waits for its link and consumes on a new channel; it ends only with Close, with Run, or with
// its queue.
//
// RabbitMQ counts a delivery that ends with its channel as it counts one that is given back, be it that Receive gave it or
// that it waited behind others within the credit. A connection has room for the server's channel_max, less a few channels for
// all else; where that is not enough there are more connections.
package amqp
