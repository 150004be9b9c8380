// Package brokertest is the contract of package broker in executable form. Every adapter calls Run from its own tests and
// passes all of it. The helpers of the suite are exported for the adapters' other tests.
package brokertest

import (
	"testing"

	"plinth/internal/broker"
)

// Open returns a client of the one server that the suite runs on. The suite runs the client itself. cut breaks every
// connection between this client and the server, but not those of other clients, and returns when they are broken; the
// server stays up and accepts the client's next connections. Open is called many times, from parallel tests.
type Open func(t *testing.T) (b broker.Broker, cut func())

// Run runs the suite. Each case runs in parallel with the others, on clients and queues of its own.
func Run(t *testing.T, open Open) {
	cases := []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"a message arrives as it was published", testRoundTrip},
		{"an unknown queue is reported and keeps nothing", testUnknownQueue},
		{"declaring again keeps the messages", testDeclareTwice},
		{"deleting drops messages and ends subscriptions", testDelete},
		{"Ready counts what waits and not what is outstanding", testReady},
		{"credit bounds what is outstanding", testCredit},
		{"a nack redelivers with the next attempt", testNack},
		{"a second settlement has no effect", testSettleTwice},
		{"Close returns everything to the queue at once", testClose},
		{"Stop returns what nobody received", testStop},
		{"Stop just after an ack returns what nobody received", testStopAfterAck},
		{"a nack goes to another subscription first", testNackElsewhere},
		{"a closed subscription takes nothing more", testClosed},
		{"subscriptions share a queue", testShare},
		{"many publishers lose and double nothing", testManyPublishers},
		{"a cancelled context ends Publish, Subscribe and Receive", testCancel},
		{"a cut loses nothing that was confirmed", testCutUnderLoad},
		{"a delivery from before a cut is stale", testStaleDelivery},
		{"Ping recovers after a cut", testPingAfterCut},
		{"the end of Run ends everything", testRunEnds},
		{"headers and attributes are apart", testHeaders},
		{"a topic leads where its bindings say", testPatterns},
		{"topics are apart", testTopicsApart},
		{"a topic without a match is reported and keeps nothing", testUnboundTopic},
		{"a topic delivers one copy to each queue", testCopies},
		{"a pattern has at most two #", testHashes},
		{"a batch does not go before other tenants", testTurns},
		{"a queue that comes and goes harms nobody", testComesAndGoes},
		{"Unbind ends one binding", testUnbind},
		{"Bind wants the queue and is idempotent", testBind},
		{"Declare with other limits is refused", testDeclareOtherwise},
		{"what waited longer than its TTL is dropped", testTTL},
		{"a TTL leaves outstanding messages alone", testTTLOutstanding},
		{"a full queue refuses, until there is room again", testMaxLength},
		{"a full queue of a topic is reported and the others get theirs", testMaxLengthOfTopic},
		{"Browse shows what waits and takes nothing", testBrowse},
		{"Purge removes what waits and leaves what is outstanding", testPurge},
		{"a batch returns an error for each publication", testBatch},
		{"a large batch loses and doubles nothing", testLargeBatch},
		{"a batch ends with its context", testBatchCancel},
		{"deliveries that were cut short are counted", testAttempts},
		{"subscriptions of a queue get fair parts", testFair},
		{"one broker has many subscriptions", testManySubscriptions},
		{"one publisher and one consumer keep the order", testOrder},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open)
		})
	}
}

// client is a running broker whose connections can be cut.
type client struct {
	broker.Broker
	cut  func()
	stop func() // ends Run and waits for it
}

func start(t *testing.T, open Open) client {
	t.Helper()
	b, cut := open(t)
	return client{Broker: b, cut: cut, stop: Serve(t, b)}
}
