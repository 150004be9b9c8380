// Package e2e is the end-to-end suite: it starts the commands of this module as processes, on backends of the tests, and uses
// them as clients do. A domain has a file of its own, or several that begin with its name; testdata/service holds the
// sessions with curl and grpcurl that every broker must pass.
//
// The suite builds what it runs, grpcurl included. It looks for what it cannot build, such as a browser or RabbitMQ: if that
// is missing, the test says what to install and is skipped, or fails if CI is true. The storms are long only if CI is true.
package e2e
