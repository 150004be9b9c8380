// Package brokertest is the contract of package broker in executable form. Every adapter calls Run from its own tests
// and passes it whole. The aids of the suite are there for the adapters' other tests as well.
package brokertest

import (
	"testing"

	"plinth/internal/broker"
)

// Open makes a client of the one server that the suite runs on, and does not run it: the suite does. cut breaks every
// connection between this client and the server, those of other clients left alone, and returns when they are broken;
// the server lives on and takes the client's next connections. Open is called many times, from parallel tests.
type Open func(t *testing.T) (b broker.Broker, cut func())

// Run runs the suite, each case in parallel with the others and on clients and queues of its own.
func Run(t *testing.T, open Open) {
	cases := []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"a message arrives as it was published", testRoundTrip},
		{"an unknown queue is told and keeps nothing", testUnknownQueue},
		{"declaring again keeps the messages", testDeclareTwice},
		{"deleting drops messages and ends subscriptions", testDelete},
		{"Ready counts what waits and not what is outstanding", testReady},
		{"credit bounds what is outstanding", testCredit},
		{"a nack redelivers with the next attempt", testNack},
		{"a second settlement has no effect", testSettleTwice},
		{"Close gives everything back at once", testClose},
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
		{"a topic without a match is told and keeps nothing", testUnboundTopic},
		{"a topic gives each queue one copy", testCopies},
		{"Unbind ends one binding", testUnbind},
		{"Bind wants the queue and is idempotent", testBind},
		{"Declare with other limits is refused", testDeclareOtherwise},
		{"what waited longer than its TTL is dropped", testTTL},
		{"a TTL leaves outstanding messages alone", testTTLOutstanding},
		{"a full queue refuses, until there is room again", testMaxLength},
		{"a full queue of a topic is told and the others get theirs", testMaxLengthOfTopic},
		{"Purge removes what waits and leaves what is outstanding", testPurge},
		{"a batch gives each publication its own error", testBatch},
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

// client is a running broker that can be cut.
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
