package rpc_test

import (
	"os"
	"testing"

	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("CI") != "true" { // The attacks need the machine then.
		if err := pgtest.SetParallel("4"); err != nil { // The tests wait more than they compute.
			panic(err)
		}
	}
	os.Exit(m.Run())
}
