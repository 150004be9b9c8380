package app

import (
	"testing"

	"go.uber.org/zap"

	"plinth/internal/pg"
)

// Together the pools have no more connections than docs/configuration.md says, with either broker.
func TestConnectionsAddUp(t *testing.T) {
	t.Parallel()
	for _, conns := range []string{"3", "4", "16", "17"} {
		for _, broker := range []string{rabbitMQ, postgresBroker} {
			env := valid()
			env["DATABASE_MAX_CONNS"], env["BROKER"] = conns, broker
			cfg, err := ParseConfig(Server, env)
			if err != nil {
				t.Fatal(err)
			}
			d, err := openDatabases(t.Context(), cfg, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			sum := 0
			for _, db := range []*pg.DB{d.calls, d.handlers, d.broker, d.work, d.directory} {
				if db != nil {
					sum += db.MaxConns()
				}
			}
			if most := int(cfg.Database.MaxConns) + workConns + directoryConns; sum != most {
				t.Errorf("%s connections, %s: %d in all, want %d", conns, broker, sum, most)
			}
		}
	}
}
