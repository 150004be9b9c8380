package dev

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func install(t *testing.T, dir string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		script(t, filepath.Join(dir, name), "exit 0")
	}
}

func TestFindBinaries(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(root, path) }
	install(t, at("9.6/bin"), "postgres", "initdb")
	install(t, at("10/bin"), "postgres", "initdb")
	install(t, at("14/bin"), "postgres") // a client package alone, or half removed
	install(t, at("own"), "postgres", "initdb")
	install(t, at("linked"), "psql")
	if err := os.Symlink(at("9.6/bin/postgres"), at("linked/postgres")); err != nil {
		t.Fatal(err)
	}
	installed := []string{at("none/*/bin"), at("*/bin")}
	path := strings.Join([]string{at("none"), at("14/bin"), at("linked"), at("own")}, ":")
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"PG_BINDIR before PATH":          {map[string]string{"PG_BINDIR": at("own"), "PATH": path}, at("own")},
		"PATH, to where the link points": {map[string]string{"PATH": path}, at("9.6/bin")},
		"the newest that is whole":       {map[string]string{"PATH": at("14/bin")}, at("10/bin")},
	} {
		if got, err := findBinaries(c.env, installed); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := findBinaries(nil, installed[:1]); got != "" || err != nil {
		t.Errorf("from nothing: %q, %v", got, err)
	}
	_, err = findBinaries(map[string]string{"PG_BINDIR": at("14/bin"), "PATH": path}, installed)
	oneLine(t, err, "PG_BINDIR="+at("14/bin"), "initdb")
}

// repository simulates a Maven repository that has one archive for every request. It counts the archives that it has sent.
func repository(t *testing.T, sent *atomic.Int32) string {
	t.Helper()
	archive, err := os.ReadFile("testdata/postgresql.txz")
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	writer := zip.NewWriter(&jar)
	entry, err := writer.Create("postgres.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := entry.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(jar.Bytes())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
			return
		}
		sent.Add(1)
		_, _ = w.Write(jar.Bytes())
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestDownload(t *testing.T) {
	t.Parallel()
	var sent atomic.Int32
	from := repository(t, &sent)
	dir := t.TempDir()
	install(t, filepath.Join(dir, "bin", "download", "postgresql", "bin"), "pg_ctl") // of a download that was cut short
	for range 2 {
		bin, err := download(t.Context(), dir, from, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := binariesIn(bin); !ok || !strings.HasPrefix(bin, dir) {
			t.Errorf("no binaries in %s", bin)
		}
	}
	if sent.Load() != 1 {
		t.Errorf("downloaded %d times", sent.Load())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "bin", "*")); len(left) != 1 {
		t.Errorf("left over: %s", left)
	}
}

func TestFailedDownload(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if _, err := download(t.Context(), t.TempDir(), server.URL, t.Output()); err == nil {
		t.Error("a repository without it gave one")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := download(ended, t.TempDir(), server.URL, t.Output()); err == nil {
		t.Error("no error after the end of the context")
	}
}
