package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(consumerQueues) != "" {
		os.Exit(consumerMain())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if bin.dir, err = os.MkdirTemp("", "plinth-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(bin.dir) }()
	return checkSecrets(pgtest.Main(m))
}

// bin is the folder of the programs that the tests build. It is a global because TestMain cannot pass it to the tests
// otherwise.
var bin struct {
	dir     string
	ours    build
	grpcurl build
}

// coverDir returns the folder where the processes write their coverage, as files for `go tool covdata`. Empty means no
// coverage.
func coverDir() string { return os.Getenv("E2E_COVERDIR") }

// build is a program that the first test that needs it builds for all tests.
type build struct {
	once sync.Once
	err  error
}

// into runs the go command to build into bin.dir; args say what.
func (b *build) into(t testing.TB, args ...string) {
	t.Helper()
	b.once.Do(func() {
		cmd := exec.Command("go", append([]string{"build", "-ldflags=-s -w", "-o", bin.dir + string(filepath.Separator)}, args...)...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOWORK=off") // -modfile is not allowed in a workspace.
		if output, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("%s: %w\n%s", cmd, err, output)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
}

// binary returns the path of one of this module's commands.
func binary(t testing.TB, name string) string {
	t.Helper()
	args := []string{"plinth/cmd/server", "plinth/cmd/worker", "plinth/cmd/dev"}
	if coverDir() != "" {
		// Without the main packages the processes would not write their coverage.
		args = append([]string{"-cover", "-covermode=set", "-coverpkg=plinth/cmd/...,plinth/internal/..."}, args...)
	}
	bin.ours.into(t, args...)
	return filepath.Join(bin.dir, name)
}

// pathWithGrpcurl returns a PATH in which grpcurl is the one that tools/go.mod names.
func pathWithGrpcurl(t testing.TB) string {
	t.Helper()
	bin.grpcurl.into(t, "-modfile=tools/go.mod", "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	return bin.dir + string(filepath.ListSeparator) + os.Getenv("PATH")
}
