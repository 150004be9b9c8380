package observe

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crashes are the ways in which TestCrash has a process end: with the log's last lines in its buffer.
var crashes = map[string]func(*Logs){
	"panic": func(logs *Logs) {
		go func() {
			defer LogPanic(logs.Main)
			panic("boom")
		}()
	},
	"SIGQUIT": func(logs *Logs) {
		logs.FlushBeforeSignals(context.Background())
		_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
	},
	"SIGABRT": func(logs *Logs) {
		logs.FlushBeforeSignals(context.Background())
		_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
	},
	"second SIGTERM": func(logs *Logs) {
		ctx, stop := context.WithCancel(context.Background())
		signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM) // The first one ends nothing.
		logs.FlushBeforeSignals(ctx)
		stop()
		for range time.Tick(10 * time.Millisecond) { // The signal is waited for a moment later.
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		}
	},
}

// TestCrash has processes end by themselves. What they logged before is in the file, and the end is what it would have been.
func TestCrash(t *testing.T) {
	t.Parallel()
	if how := os.Getenv("PLINTH_TEST_CRASH"); how != "" {
		logs, err := NewLogs(LogConfig{Level: "info", Format: "json", File: os.Getenv("PLINTH_TEST_LOG")})
		if err != nil {
			t.Fatal(err)
		}
		logs.Access.Info("last words")
		crashes[how](logs)
		time.Sleep(30 * time.Second)
		return // It did not end: that is an end with another status.
	}
	for how, want := range map[string]struct {
		logged, printed string
		by              syscall.Signal // 0 is an exit with status 2
	}{
		"panic":          {logged: `"msg":"panic","panic":"boom","stack":"`, printed: "panic: boom"},
		"SIGQUIT":        {printed: "SIGQUIT: quit"},
		"SIGABRT":        {printed: "SIGABRT: abort"},
		"second SIGTERM": {by: syscall.SIGTERM},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "log")
			process := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
			process.Env = append(os.Environ(), "PLINTH_TEST_CRASH="+how, "PLINTH_TEST_LOG="+file)
			var printed bytes.Buffer
			process.Stdout, process.Stderr = &printed, &printed
			_ = process.Run()
			ended := process.ProcessState.Sys().(syscall.WaitStatus)
			if want.by != 0 && ended.Signal() != want.by || want.by == 0 && ended.ExitStatus() != 2 || !strings.Contains(printed.String(), want.printed) {
				t.Errorf("it ended by %v with %d, and printed\n%s", ended.Signal(), ended.ExitStatus(), &printed)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), `"last words"`) || !strings.Contains(string(text), want.logged) {
				t.Errorf("the log has\n%s", text)
			}
		})
	}
}
