package e2e

import (
	"testing"

	"plinth/internal/blob/blobtest"
)

// onEveryBroker are the tests that a system must pass with every broker.
var onEveryBroker = map[string]func(t *testing.T, broker string){
	"service": service, "start without a backend": startsWithoutABackend, "stop of a server": serverStops, "stop of a worker": workerStops,
	"pull": pullStorm, "push": pushing, "trace of a file": tracesFiles, "canaries": canaries,
}

func TestOnPostgres(t *testing.T) {
	t.Parallel()
	on(t, "postgres")
}

func TestOnRabbitMQ(t *testing.T) {
	t.Parallel()
	takeRabbitMQ(t)
	on(t, "rabbitmq")
}

func on(t *testing.T, broker string) {
	for name, test := range onEveryBroker {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, broker)
		})
	}
}

// service tests the service as its clients see it.
func service(t *testing.T, broker string) {
	sys := startSystem(t, with(backends(t, broker), blobtest.New(t).Env()))
	t.Run("memory", func(t *testing.T) { consumeMemory(t, sys) })
	clients(t, sys)
}

// clients tests what clients do, all of it at the same time.
func clients(t *testing.T, sys *system) {
	for name, test := range map[string]func(*testing.T, *system){
		"scripts": scripts, "rpc": everyRPC, "consume": consuming, "canceled": canceledCall, "poison": poisoned, "isolation": isolated,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, sys)
		})
	}
}
