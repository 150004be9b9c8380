// Package ratelimit limits rates in all processes that share a Redis: Rate.Count tokens at once, and then one every Per/Count.
//
// # What is asked of Redis
//
// While half of a rate or more is left, a process takes up to a hundredth of Rate.Count by itself and reports it to Redis
// afterwards, many keys at once: 10 ms later, or within 10 s while it took less than half of that. The other half is asked
// for token by token, and so is a rate whose Count is below 100. That makes these exact: in no time W do all processes
// together allow more than Count + W × Count/Per. For the others it is at most a hundredth of Count more for each process,
// and the excess is subtracted from what is allowed next.
//
// A process remembers what Redis replied: a call that cannot be allowed yet, whatever others take, is refused without asking.
//
// # Without Redis
//
// When Redis is away (see kv.Away; or no reply in 50 ms) or refuses the script, each process allows the same rates by itself,
// less what Redis allowed it before. The log records once which of the two it is: the first passes, the second has to be mended.
// Only the calls that find out wait; one probe a second in the background finds out when it is over. The limiter then goes on
// from what Redis holds: what was allowed meanwhile is not counted. A Redis that comes back empty has every bucket full, but
// those that a process remembers as used up stay so until they would have been refilled.
//
// # Keys
//
// A bucket has its tenant's hash tag, plinth:{tenant}:rate:kind:name, so that in a Cluster one script takes the limits of
// one tenant, all or none. There, a Take of limits of several tenants asks for one tenant after another, and returns what it
// took when a later one refuses.
//
// A process remembers at most 100,000 keys, the busiest of them. Without Redis, the bucket of a forgotten key is full.
package ratelimit
