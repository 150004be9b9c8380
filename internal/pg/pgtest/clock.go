package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
)

// Clock is the clock of a server.
type Clock struct{ file string }

// NewServerWithClock starts a server as NewServer does, whose clock can be set. It is the library of faketime that does it, of Debian's
// package libfaketime: the test is skipped where that is not installed.
func NewServerWithClock(t testing.TB) (*Server, *Clock) {
	t.Helper()
	library, postgres := installed(t, "/usr/lib/*/faketime/libfaketime.so.1"), Program(t, "postgres")
	dir := t.TempDir()
	clock := &Clock{filepath.Join(dir, "clock")}
	clock.Set(t, 0)
	// The server's environment is not ours, so it gets the library from a program of its name.
	faked := fmt.Sprintf("LD_PRELOAD='%s' FAKETIME_TIMESTAMP_FILE='%s' FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1", library, clock.file)
	for name, setting := range map[string]string{"postgres": faked, "initdb": "LC_ALL=C"} {
		script := fmt.Sprintf("#!/bin/sh\nexport %s\nexec '%s' \"$@\"\n", setting, filepath.Join(filepath.Dir(postgres), name))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	environment := env.ToMap(os.Environ())
	environment["PG_BINDIR"] = dir
	return migrated(t, serve(t, t.TempDir(), environment)), clock
}

// Set sets the clock to the time of this machine and an offset.
func (c *Clock) Set(t testing.TB, offset time.Duration) {
	t.Helper()
	text := fmt.Sprintf("%+.3f\n", offset.Seconds())
	if err := os.WriteFile(c.file+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.file+".new", c.file); err != nil {
		t.Fatal(err)
	}
}
