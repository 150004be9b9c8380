package dev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of the given size (such as 16m), or skips.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("a small disk can only be mounted by root on Linux")
	}
	disk := t.TempDir()
	output, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "none", disk).CombinedOutput()
	if err != nil {
		t.Skipf("mounting is not allowed here: %s", output)
	}
	t.Cleanup(func() {
		if output, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", output)
		}
	})
	return disk
}

// fill writes a file until no byte is left.
func fill(t *testing.T, disk string) {
	t.Helper()
	file, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for block := make([]byte, 4096); err == nil; {
		_, err = file.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, disk string) {
		t.Helper()
		dir := filepath.Join(disk, "data")
		want := fmt.Sprintf("no space left on the disk that holds %s: free some or set DATA_DIR to another folder", dir)
		b, err := Start(t.Context(), machine(map[string]string{"DATA_DIR": dir, "S3_ENDPOINT": nowhere}), t.Output())
		if err == nil {
			b.Close()
		}
		if err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
	t.Run("at our own first write", func(t *testing.T) {
		t.Parallel()
		disk := smallDisk(t, "64k")
		fill(t, disk)
		start(t, disk)
	})
	t.Run("in initdb", func(t *testing.T) {
		t.Parallel()
		start(t, smallDisk(t, "16m"))
	})
	t.Run("when postgres starts", func(t *testing.T) {
		t.Parallel()
		disk := smallDisk(t, "96m")
		mustStartPostgres(t, filepath.Join(disk, "data")).Close()
		fill(t, disk)
		start(t, disk)
	})
}

func TestUnwritableFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed := t.TempDir()
	if os.Geteuid() == 0 {
		closed = smallDisk(t, "64k")
		if output, err := exec.Command("mount", "-o", "remount,ro", closed).CombinedOutput(); err != nil {
			t.Fatalf("remount: %s", output)
		}
	} else if err := os.Chmod(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(file, "data"), filepath.Join(closed, "data"), closed} {
		_, err := Start(t.Context(), machine(map[string]string{"DATA_DIR": dir}), t.Output())
		oneLine(t, err, "cannot use "+dir, "set DATA_DIR to another folder")
	}
}

// TestRootWithoutCapabilities runs as a root that may not let PostgreSQL enter every folder.
func TestRootWithoutCapabilities(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("only root on Linux can give up capabilities")
	}
	dir := dataDir(t)
	env := machine(map[string]string{"DATA_DIR": dir, "S3_ENDPOINT": nowhere})
	p := startProgram(t, "dev", env, "setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", os.Args[0])
	if status := p.wait(t); status != 1 {
		t.Errorf("exit status %d", status)
	}
	said := strings.TrimSpace(p.stderr.String())
	oneLine(t, errors.New(said), "cannot enter "+filepath.Dir(filepath.Dir(filepath.Dir(dir))), "set DATA_DIR")
}
