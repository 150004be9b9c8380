package observe

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/DeRuina/timberjack"
	"go.uber.org/zap/zapcore"
)

// logFile is a file that rotates.
type logFile struct {
	cfg LogConfig

	mu   sync.Mutex
	file *timberjack.Logger
}

func openLogFile(cfg LogConfig) (*logFile, error) {
	f := &logFile{cfg: cfg}
	return f, f.open()
}

// open opens the file. The rotating writer does so with the first line; a path that cannot be written must be told before.
func (f *logFile) open() error {
	probe, err := os.OpenFile(f.cfg.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_ = probe.Close()
	f.file = &timberjack.Logger{
		Filename: f.cfg.File, MaxSize: f.cfg.MaxSize, MaxBackups: f.cfg.MaxBackups, MaxAge: f.cfg.MaxAge, FileMode: 0o600,
	}
	return nil
}

// reopen opens the file anew. If it cannot be opened, the one before is written on.
func (f *logFile) reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.file
	if err := f.open(); err != nil {
		return err
	}
	return before.Close()
}

func (f *logFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Write(p)
}

func (f *logFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}

// enduring loses what cannot be written, and complains once until writing succeeds again. The caller holds a lock.
type enduring struct {
	to       zapcore.WriteSyncer
	complain io.Writer
	lost     int // bytes
}

func (e *enduring) Write(p []byte) (int, error) {
	n, err := e.to.Write(p)
	switch {
	case err != nil:
		if e.lost == 0 {
			_, _ = fmt.Fprintf(e.complain, "plinth: the log cannot be written, and the service goes on without it: %v\n", err)
		}
		e.lost += max(1, len(p)-n)
	case e.lost > 0:
		_, _ = fmt.Fprintf(e.complain, "plinth: the log is written again; %d bytes of it are lost\n", e.lost)
		e.lost = 0
	}
	return len(p), nil
}

func (e *enduring) Sync() error { return e.to.Sync() }
