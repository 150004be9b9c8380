package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOnCall does with a process what people on call do, while it has no backend: they ask for its version, its profiles and its
// page, set the level of its log for a time, and rotate the file of the log.
func TestOnCall(t *testing.T) {
	t.Parallel()
	version, err := command(t, "worker", nil, "-version").Output()
	if err != nil || !strings.HasPrefix(string(version), "plinth worker ") {
		t.Errorf("%s %v", version, err)
	}
	file := filepath.Join(t.TempDir(), "log")
	p := start(t, "server", map[string]string{
		"HTTP_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "AUTH_ADMIN_KEY": adminKey, "SHUTDOWN_TIMEOUT": "20s", "LOG_FILE": file,
		"DATABASE_URL": "postgres://user@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1", "BROKER": "postgres",
	})
	has := func(file, text string) bool {
		lines, _ := os.ReadFile(file)
		return bytes.Contains(lines, []byte(text))
	}
	eventually(t, "the process says where it serves", func() bool { return has(file, "serving metrics") })
	lines, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	admin, first := "", struct{ Msg, Version, Revision, Go string }{}
	for i, line := range bytes.Split(lines, []byte("\n")) {
		var of struct{ Msg, Address string }
		if json.Unmarshal(line, &of) == nil && strings.HasPrefix(of.Msg, "serving metrics") {
			admin = "http://" + of.Address
		}
		if first.Msg == "" && bytes.Contains(line, []byte(`"starting"`)) {
			if err := json.Unmarshal(line, &first); err != nil {
				t.Errorf("line %d: %v", i, err)
			}
		}
	}
	if first.Go == "" || !strings.Contains(string(version), first.Version) {
		t.Errorf("the process says %+v of its build, and -version %s", first, version)
	}
	for path, want := range map[string]string{
		"/": "<html", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/heap?debug=1": "heap profile", "/debug/state": `"goroutines"`,
		"/log/level": `"info"`,
	} {
		page := bodyOf(admin + path)
		if !bytes.Contains(page, []byte(want)) || path == "/" && bytes.Contains(page, []byte(`="http`)) {
			t.Errorf("%s has no %s, or loads something from elsewhere: %.200s", path, want, page)
		}
	}
	set := func(body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "PUT", admin+"/log/level", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res, err)
		}
		_ = res.Body.Close()
	}
	set(`{"level": "debug", "for": "10m"}`)
	eventually(t, "there are lines of the level debug", func() bool { return has(file, `"level":"debug"`) })
	set(`{"level": "warn", "for": "200ms"}`)
	eventually(t, "the level is back by itself", func() bool { return bytes.Contains(bodyOf(admin+"/log/level"), []byte(`"info"`)) })
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	eventually(t, "the file is opened anew", func() bool { return has(file, `"msg"`) })
	p.stop(t)
	if !has(file, "shutting down") {
		t.Error("the new file lacks the end of the process")
	}
}
