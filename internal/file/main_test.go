package file

import (
	"os"
	"testing"

	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m))
}
