// Package e2e is the end-to-end suite: it starts the commands of this module as processes, on backends of the tests, and uses
// them as clients do. A domain has a file of its own, or several that begin with its name; testdata/service holds the
// sessions with curl and grpcurl that every broker must pass.
//
// The suite builds what it runs, grpcurl included. What the machine alone can have, such as a browser or RabbitMQ, it looks
// for: a test that misses it says what to install and is skipped, or fails where CI is true. There the storms are long, too.
package e2e
