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
// One goroutine writes to one channel in confirm mode, with at most 256 publications unconfirmed. A publication goes
//
//	waiting ── written ──▶ unconfirmed ── confirmed ──▶ nil
//	   │                        ├────────── returned, then confirmed ──▶ ErrNoQueue
//	   │                        └────────── refused, or the channel was lost ──▶ errs.Unavailable, outcome unknown
//	   └── its caller leaves: it is not published
//
// A caller may leave at any time. Its place in the window stays taken until RabbitMQ answers or the channel is lost.
// A publication that RabbitMQ answers with a channel error, such as a body above the server's max_message_size, takes
// the unconfirmed ones of the same moment with it; the link then connects anew.
//
// # Queues
//
// All are durable quorum queues. One that exists with other arguments is not touched: errs.FailedPrecondition.
//
// # Subscriptions
//
// Each has a channel of its own, whose prefetch is the credit. A delivery can be settled on that channel alone, so once
// the channel is lost settling gives errs.Unavailable and does nothing, and RabbitMQ delivers the message again. The
// subscription meanwhile waits for its link and consumes on a new channel; it ends only with Close, with Run, or with
// its queue.
package amqp
