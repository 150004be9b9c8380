// Package observe sets up the observability of the service: logs, metrics and traces.
package observe

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LogConfig configures the level, the format and the destination of the logs.
type LogConfig struct {
	Level      string // debug, info, warn or error
	Format     string // json or console
	File       string // empty is standard output
	MaxSize    int    // MiB a file may have before it is rotated
	MaxBackups int    // rotated files that are kept; 0 is all
	MaxAge     int    // days that rotated files are kept; 0 is for ever
}

// Logs are the service's loggers. They write to the same place. Where nothing can be written, such as to a full disk, the
// lines are lost and the service goes on.
type Logs struct {
	// Main writes each line at once, so that a crash loses none. Of a message that repeats, it leaves lines out.
	Main *zap.Logger
	// Access is for the one line per request. It writes in batches, after accessFlush at the latest, because a system call
	// for each line would cost a sixth of what the request itself costs. An error, of either logger, writes out the batch.
	Access *zap.Logger
	// Level is the level of both.
	Level *Level

	file     *logFile // nil for standard output
	buffered *zapcore.BufferedWriteSyncer
	close    []func() error
}

const (
	accessBuffer = 256 << 10
	accessFlush  = 100 * time.Millisecond
)

// NewLogs opens the logs. Close writes out what is buffered.
func NewLogs(cfg LogConfig) (*Logs, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, fmt.Errorf("LOG_LEVEL: %q is none of debug, info, warn, error", cfg.Level)
	}
	l := &Logs{}
	var sink zapcore.WriteSyncer = os.Stdout
	if cfg.File != "" {
		if l.file, err = openLogFile(cfg); err != nil {
			return nil, fmt.Errorf("LOG_FILE: %w", err)
		}
		l.close, sink = append(l.close, l.file.Close), zapcore.AddSync(l.file)
	}
	sink = zapcore.Lock(&enduring{to: sink, complain: os.Stderr})
	buffered := &zapcore.BufferedWriteSyncer{WS: sink, Size: accessBuffer, FlushInterval: accessFlush}
	l.buffered = buffered
	l.close = append([]func() error{buffered.Stop}, l.close...)

	at := zap.NewAtomicLevelAt(level)
	core := func(sink zapcore.WriteSyncer) zapcore.Core {
		return &flushing{zapcore.NewCore(encoder(cfg.Format), sink, at), buffered}
	}
	sampled := newRepeats(core(sink))
	l.close = append([]func() error{sampled.state.report}, l.close...)
	l.Main, l.Access = zap.New(sampled), zap.New(core(buffered))
	l.Level = &Level{level: at, first: level, log: l.Main}
	return l, nil
}

// Reopen opens the file anew, for who has moved it away. Standard output stays as it is.
func (l *Logs) Reopen() error {
	if l.file == nil {
		return nil
	}
	return l.file.reopen()
}

// Close writes out what is buffered and closes the file.
func (l *Logs) Close() {
	for _, f := range l.close {
		_ = f()
	}
}

// flushing writes out what is buffered before a line of an error, so that the lines which led to it come first and survive a
// crash that follows.
type flushing struct {
	zapcore.Core
	buffered *zapcore.BufferedWriteSyncer
}

func (f *flushing) With(fields []zapcore.Field) zapcore.Core {
	return &flushing{f.Core.With(fields), f.buffered}
}

func (f *flushing) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if f.Enabled(e.Level) {
		return c.AddCore(e, f)
	}
	return c
}

func (f *flushing) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level < zapcore.ErrorLevel {
		return f.Core.Write(e, fields)
	}
	_ = f.buffered.Sync()
	err := f.Core.Write(e, fields)
	_ = f.buffered.Sync()
	return err
}

func encoder(format string) zapcore.Encoder {
	cfg := zap.NewProductionEncoderConfig()
	cfg.TimeKey = "time"
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncodeDuration = milliseconds
	if format == "console" {
		cfg.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		cfg.EncodeLevel = zapcore.CapitalLevelEncoder
		cfg.ConsoleSeparator = "  "
		return zapcore.NewConsoleEncoder(cfg)
	}
	return zapcore.NewJSONEncoder(cfg)
}

// milliseconds keeps the microseconds, since most calls take less than one.
func milliseconds(d time.Duration, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendFloat64(float64(d.Microseconds()) / 1000)
}
