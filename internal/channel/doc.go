// Package channel sends messages to everybody who listens at the moment, and tells them what they missed.
//
// The promise to a stream:
//
//   - Each message of its channels comes at most once, in the order in which the tenant's messages were published, on whatever channels.
//   - Each message that was published, and answered, after the place of the stream comes, or a gap does that has its place between its
//     two ids. So it is, too, if the stream is cut, if it is slow, and if Redis is away, flushed, restarted without its last data, or
//     failed over.
//   - A gap may stand where nothing is missing: where that cannot be known.
//
// A place is an ID: microseconds, and the epoch, which is a time in which Redis certainly lost nothing. Publish, one script, gives a
// message the next place of its tenant, adds it to the history of its channel, a stream in Redis, and sends it by pub/sub together with
// the place before. So who listens sees at each message whether it has all before it, and one id resumes all channels of a stream.
//
// # Epochs
//
// No data in Redis can tell that Redis lost its latest data. But a subscription is bound to one run of one server: nothing saves or
// copies it. Every process subscribes to a channel of its own, its witness, under a name that is never used again, and every script
// notes it among the data of the tenant. While one that was noted has a subscriber, this is the server that noted it, and it has
// everything since. If none has, a new epoch begins: every place of another epoch has a gap after it. That is so after a restart or
// failover of Redis; where a flush or an eviction took the notes; and where all connections that listen were cut at once, as when
// the only process of a service is replaced, although nothing may be lost then.
//
// What a stream is told is decided by answers of scripts alone, all of which found the witness and the same epoch: a server that lacks the
// latest messages may answer anything else, as long as a failover has two of them. A message that was listed, and is not where it is read, is a gap.
//
// # Streams
//
// One connection of a process listens, to one pub/sub channel for each tenant with streams; in a Cluster one for each node that has such
// tenants, to which PUBLISH, and the witness, are local. A feed keeps the latest messages of a tenant, once for all streams. A stream is
// a place in the feed, and no queue: one that is slower than the feed keeps reads the histories, until it has caught up. A stream that
// waits takes part in nothing that its channels do not have.
//
// What happens when
//   - the connection that listens is cut: streams are told that they are interrupted; it connects again, with a new witness, after 50 ms
//     at first and a second at most; streams read the histories.
//   - Redis is silent: the connection counts as cut after 3 s.
//   - a message of pub/sub is lost: the next one does not follow on it, or within two seconds a check finds that Redis has more; streams
//     read the histories.
//   - Redis is away: streams stay open, also new ones. Publish is unavailable, and not tried again: it may have been done.
//   - a history was trimmed: a gap, with the number of missing messages where the client named the last one it had of the channel.
//   - a process stops or is killed: its streams end, and go on elsewhere after their last id.
//   - the clocks of processes differ: nothing, since places are of the clock of Redis. Places never go back while Redis has them. If it
//     lost all and its clock went back, or a replica whose clock is behind takes its place, they may be behind those of before: that is a
//     new epoch, and a gap of it may begin before what was lost.
package channel
