package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"plinth/internal/pg/pgtest"
)

// Tests that run at a time. The end-to-end tests wait far more than they compute, but each has up to 40 connections to
// PostgreSQL, which takes 100 by default. There must be more than four, the tests that may wait for RabbitMQ while
// TestService has it: its parts need a place as well.
const parallel = "5"

func TestMain(m *testing.M) {
	if os.Getenv(consumerQueues) != "" {
		os.Exit(consumerMain())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	var err error
	if !asked {
		err = flag.Set("test.parallel", parallel)
	}
	if err == nil {
		bin.dir, err = os.MkdirTemp("", "plinth-e2e-")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(bin.dir) }()
	return checkSecrets(pgtest.Main(m))
}

// bin holds the commands of this module. TestMain can hand them down in no other way.
var bin struct {
	dir   string
	build sync.Once
	err   error
}

// coverDir is where the processes write their coverage, as files that `go tool covdata` reads. Empty is no coverage.
func coverDir() string { return os.Getenv("E2E_COVERDIR") }

// binary gives the path of a command, built by the first test that asks for one.
func binary(t testing.TB, name string) string {
	t.Helper()
	bin.build.Do(func() {
		args := []string{"build", "-ldflags=-s -w", "-o", bin.dir + string(filepath.Separator)}
		if coverDir() != "" {
			// Without the main packages nothing would be written at the end.
			args = append(args, "-cover", "-covermode=atomic", "-coverpkg=plinth/cmd/...,plinth/internal/...")
		}
		cmd := exec.Command("go", append(args, "plinth/cmd/server", "plinth/cmd/worker", "plinth/cmd/dev")...)
		if output, err := cmd.CombinedOutput(); err != nil {
			bin.err = fmt.Errorf("go build: %w\n%s", err, output)
		}
	})
	if bin.err != nil {
		t.Fatal(bin.err)
	}
	return filepath.Join(bin.dir, name)
}
