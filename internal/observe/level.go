package observe

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// How long a level lasts that was set.
const (
	levelFor  = 15 * time.Minute
	levelMost = 24 * time.Hour
)

// Level is the level of the logs. It can be set for a time, and is then again what it was at the start.
type Level struct {
	level zap.AtomicLevel
	first zapcore.Level
	log   *zap.Logger

	mu    sync.Mutex
	until time.Time
	back  *time.Timer
}

// levelState is the level as JSON.
type levelState struct {
	Level string     `json:"level"`
	Until *time.Time `json:"until,omitempty"` // when it is again what it was at the start
}

func (l *Level) state() levelState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := levelState{Level: l.level.Level().String()}
	if !l.until.IsZero() {
		until := l.until
		s.Until = &until
	}
	return s
}

// Set sets the level for a time.
func (l *Level) Set(level zapcore.Level, lasts time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.back != nil {
		l.back.Stop()
	}
	until := time.Now().Add(lasts).UTC()
	l.until = until
	l.back = time.AfterFunc(lasts, func() { l.reset(until) })
	l.change(level, "the level of the log is set", zap.Stringer("now", level), zap.Time("until", until))
}

// change changes the level with a line that says so, at the one of the two levels that has more: that of errors has no such line. The
// caller holds the lock.
func (l *Level) change(to zapcore.Level, message string, fields ...zap.Field) {
	if to <= l.level.Level() {
		l.level.SetLevel(to)
	}
	l.log.Warn(message, fields...)
	l.level.SetLevel(to)
}

// reset sets the level of the start, unless another one was set meanwhile.
func (l *Level) reset(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.until.Equal(until) {
		return
	}
	l.until = time.Time{}
	l.change(l.first, "the level of the log is again what it was", zap.Stringer("now", l.first))
}

// ServeHTTP answers a GET with the level, and sets it by a PUT of {"level": "debug", "for": "10m"}. Without "for" it lasts for
// 15 minutes, and for 24 hours at most.
func (l *Level) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		level, lasts, err := parseLevel(http.MaxBytesReader(w, r.Body, 1<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		l.Set(level, lasts)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(l.state())
}

func parseLevel(body io.Reader) (level zapcore.Level, lasts time.Duration, err error) {
	var wanted struct {
		Level string `json:"level"`
		For   string `json:"for"`
	}
	from := json.NewDecoder(body)
	from.DisallowUnknownFields()
	if err := from.Decode(&wanted); err != nil {
		return 0, 0, errors.New(`the body is no JSON such as {"level": "debug", "for": "10m"}`)
	}
	if level, err = zapcore.ParseLevel(wanted.Level); err != nil || wanted.Level == "" || level > zapcore.ErrorLevel {
		return 0, 0, errors.New("level: it takes debug, info, warn or error")
	}
	if wanted.For == "" {
		return level, levelFor, nil
	}
	if lasts, err = time.ParseDuration(wanted.For); err != nil || lasts <= 0 || lasts > levelMost {
		return 0, 0, errors.New("for: it takes a duration such as 10m, 24h at most")
	}
	return level, lasts, nil
}
