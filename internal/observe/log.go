// Package observe sets up the observability of the service: logs, metrics and traces.
package observe

import (
	"fmt"
	"os"
	"time"

	"github.com/DeRuina/timberjack"
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

// Logs are the service's loggers. They write to the same place.
type Logs struct {
	// Main writes each line at once, so that a crash loses none.
	Main *zap.Logger
	// Access is for the one line per request. It writes in batches, after accessFlush at the latest, because a system call
	// for each line would cost a sixth of what the request itself costs.
	Access *zap.Logger

	close []func() error
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
		// The rotating writer opens its file with the first line; a path that cannot be written must stop the start.
		f, err := os.OpenFile(cfg.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("LOG_FILE: %w", err)
		}
		_ = f.Close()
		file := &timberjack.Logger{Filename: cfg.File, MaxSize: cfg.MaxSize, MaxBackups: cfg.MaxBackups, MaxAge: cfg.MaxAge, FileMode: 0o600}
		l.close = append(l.close, file.Close)
		sink = zapcore.AddSync(file)
	}
	sink = zapcore.Lock(sink)
	buffered := &zapcore.BufferedWriteSyncer{WS: sink, Size: accessBuffer, FlushInterval: accessFlush}
	l.close = append([]func() error{buffered.Stop}, l.close...)

	l.Main = zap.New(zapcore.NewCore(encoder(cfg.Format), sink, level))
	l.Access = zap.New(zapcore.NewCore(encoder(cfg.Format), buffered, level))
	return l, nil
}

// Close writes out what is buffered and closes the file.
func (l *Logs) Close() {
	for _, f := range l.close {
		_ = f()
	}
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
