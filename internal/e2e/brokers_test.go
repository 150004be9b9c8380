package e2e

import "testing"

// onEveryBroker are the tests that a system passes whatever its broker is.
var onEveryBroker = map[string]func(t *testing.T, broker string){
	"service": service, "start without a backend": startsWithoutABackend, "stop of a server": serverStops, "stop of a worker": workerStops,
}

func TestOnPostgres(t *testing.T) {
	t.Parallel()
	for name, test := range onEveryBroker {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, "postgres")
		})
	}
}

// These run one after the other, because each needs RabbitMQ for itself.
func TestOnRabbitMQ(t *testing.T) {
	t.Parallel()
	takeRabbitMQ(t)
	for name, test := range onEveryBroker {
		t.Run(name, func(t *testing.T) { test(t, "rabbitmq") })
	}
}

// service is the service as clients see it.
func service(t *testing.T, broker string) {
	sys := startSystem(t, backends(t, broker))
	t.Run("memory", func(t *testing.T) { consumeMemory(t, sys) })
	clients(t, sys)
}

// clients are what clients do, all at the same time.
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
