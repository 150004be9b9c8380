package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logsAt returns logs that go to a file, and what reads it.
func logsAt(t *testing.T) (*Logs, string, func() []map[string]any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	logs, err := NewLogs(LogConfig{Level: "info", Format: "json", File: file, MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(logs.Close)
	return logs, file, func() []map[string]any { return linesOf(t, file) }
}

func linesOf(t *testing.T, file string) (lines []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for from := json.NewDecoder(bytes.NewReader(text)); ; {
		var line map[string]any
		if from.Decode(&line) != nil {
			return lines
		}
		lines = append(lines, line)
	}
}

// TestFlush has an error bring out the lines before it, of both loggers, in their order.
func TestFlush(t *testing.T) {
	t.Parallel()
	logs, _, read := logsAt(t)
	logs.Access.Info("one")
	logs.Main.Error("two")
	logs.Access.Error("three")
	var got []string
	for _, line := range read() {
		got = append(got, line["msg"].(string))
	}
	if strings.Join(got, " ") != "one two three" {
		t.Errorf("written are %v", got)
	}
}

// TestClose has lines of a panic's last moments.
func TestClose(t *testing.T) {
	t.Parallel()
	logs, _, read := logsAt(t)
	func() {
		defer func() { _ = recover() }()
		defer logs.Close()
		logs.Access.Info("last words")
		panic("x")
	}()
	if lines := read(); len(lines) != 1 || lines[0]["msg"] != "last words" {
		t.Errorf("written are %v", lines)
	}
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	logs, _, read := logsAt(t)
	const lines = 5 * repeatsMost
	for i := range lines {
		logs.Main.With(zap.Int("n", i)).Warn("again and again")
		logs.Access.Info("request")
	}
	logs.Main.Info("another")
	logs.Close()
	written, left, requests, another := 0, 0, 0, 0
	for _, line := range read() {
		switch line["msg"] {
		case "again and again":
			written++
		case "request":
			requests++
		case "another":
			another++
		case "lines were left out that repeat a message":
			if line["repeated"] != "again and again" || line["level"] != "warn" {
				t.Errorf("left out: %v", line)
			}
			left += int(line["left_out"].(float64))
		}
	}
	// A period may end while the lines are written.
	if written+left != lines || left == 0 || written < repeatsMost || requests != lines || another != 1 {
		t.Errorf("%d written and %d left out of %d; %d requests, %d others", written, left, lines, requests, another)
	}
}

// TestReopen moves the file away, as logrotate does.
func TestReopen(t *testing.T) {
	t.Parallel()
	logs, file, read := logsAt(t)
	logs.Main.Info("before")
	moved := file + ".1"
	if err := os.Rename(file, moved); err != nil {
		t.Fatal(err)
	}
	logs.Main.Info("still before")
	if err := logs.Reopen(); err != nil {
		t.Fatal(err)
	}
	logs.Main.Info("after")
	if lines := read(); len(lines) != 1 || lines[0]["msg"] != "after" {
		t.Errorf("in the new file are %v", lines)
	}
	if lines := linesOf(t, moved); len(lines) != 2 {
		t.Errorf("in the old file are %v", lines)
	}
	// A folder that is gone leaves the file that is open.
	if err := os.Rename(filepath.Dir(file), filepath.Dir(file)+"-gone"); err != nil {
		t.Fatal(err)
	}
	if logs.Reopen() == nil {
		t.Error("a file in no folder was opened")
	}
	logs.Main.Info("on")
	if lines := linesOf(t, filepath.Join(filepath.Dir(file)+"-gone", "log")); len(lines) != 2 {
		t.Errorf("after that are %v", lines)
	}
}

// flaky is a disk that is full for a while.
type flaky struct {
	bytes.Buffer
	full bool
}

func (f *flaky) Write(p []byte) (int, error) {
	if f.full {
		return 0, errors.New("no space left on device")
	}
	return f.Buffer.Write(p)
}

func (*flaky) Sync() error { return nil }

// TestFullDisk has a disk that is full, of the kernel's own making, and one that has room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	var said bytes.Buffer
	log := zap.New(zapcore.NewCore(encoder("json"), &enduring{to: full, complain: &said}, zap.InfoLevel))
	for range 10 {
		log.Error("x")
	}
	if text := said.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "no space left") {
		t.Errorf("it says %q", text)
	}
	said.Reset()
	disk := &flaky{full: true}
	log = zap.New(zapcore.NewCore(encoder("json"), &enduring{to: disk, complain: &said}, zap.InfoLevel))
	log.Info("lost")
	disk.full = false
	log.Info("kept")
	log.Info("kept")
	if text := said.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "is written again") || strings.Count(disk.String(), "kept") != 2 {
		t.Errorf("it says %q, and has %q", text, disk.String())
	}
}

func TestLevel(t *testing.T) {
	t.Parallel()
	logs, _, read := logsAt(t)
	put := func(body string) int {
		reply := httptest.NewRecorder()
		logs.Level.ServeHTTP(reply, httptest.NewRequest(http.MethodPut, "/log/level", strings.NewReader(body)))
		return reply.Code
	}
	for _, bad := range []string{
		"", "debug", `{"level": "loud"}`, `{"level": ""}`, `{"level": "fatal"}`, `{"level": "debug", "for": "soon"}`, `{"level": "debug", "for": "-1s"}`,
		`{"level": "debug", "for": "25h"}`, `{"level": "debug", "until": "x"}`,
	} {
		if code := put(bad); code != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, code)
		}
	}
	logs.Main.Debug("not yet")
	if code := put(`{"level": "debug"}`); code != http.StatusOK {
		t.Fatal(code)
	}
	logs.Main.Debug("now")
	if s := logs.Level.state(); s.Level != "debug" || s.Until == nil || time.Until(*s.Until) < levelFor-time.Minute {
		t.Errorf("%+v", s)
	}
	if code := put(`{"level": "debug", "for": "1ms"}`); code != http.StatusOK { // The one before does not end this one.
		t.Fatal(code)
	}
	for deadline := time.Now().Add(10 * time.Second); logs.Level.state().Level != "info"; {
		if time.Now().After(deadline) {
			t.Fatal("the level stays")
		}
	}
	logs.Main.Debug("no longer")
	for _, body := range []string{`{"level": "error"}`, `{"level": "error", "for": "1ms"}`} { // The second one has no line.
		if code := put(body); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); logs.Level.state().Level != "info"; {
		if time.Now().After(deadline) {
			t.Fatal("the level stays")
		}
	}
	logs.Close()
	var debug, changes []string
	for _, line := range read() {
		if line["level"] == "debug" {
			debug = append(debug, line["msg"].(string))
		} else {
			changes = append(changes, line["now"].(string))
		}
	}
	if strings.Join(debug, " ") != "now" {
		t.Errorf("at debug are %v", debug)
	}
	if strings.Join(changes, " ") != "debug debug info error info" {
		t.Errorf("the changes that are told are %v", changes)
	}
}
