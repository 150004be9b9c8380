package app

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"plinth/internal/observe"
)

// Every service of this module is in the table of domains, so it is mounted, and listed by reflection and health. The tests
// of package api find services whose proto is not linked.
func TestEveryServiceIsMounted(t *testing.T) {
	t.Parallel()
	cfg, err := ParseConfig(Server, valid())
	if err != nil {
		t.Fatal(err)
	}
	logs, err := observe.NewLogs(observe.LogConfig{Level: "error", Format: "json", File: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	a, err := build(context.Background(), cfg, logs) // It does not ask the backends, which do not exist.
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	var mounted, linked []string
	for _, name := range a.health.services {
		if strings.HasPrefix(name, "plinth.") {
			mounted = append(mounted, name)
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			if name := string(file.Services().Get(i).FullName()); strings.HasPrefix(name, "plinth.") {
				linked = append(linked, name)
			}
		}
		return true
	})
	slices.Sort(mounted)
	slices.Sort(linked)
	if !slices.Equal(mounted, linked) || len(mounted) < 2 {
		t.Errorf("mounted are %v; the protos have %v", mounted, linked)
	}
}
