package observe

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	repeatsPeriod = time.Second
	repeatsMost   = 100  // lines of one message in a period
	repeatsKinds  = 1000 // messages that are told apart in a period; all others are written
)

// repeats leaves out lines that repeat a message too often, and says how many. Messages are constant texts, and what differs is
// in the fields.
type repeats struct {
	zapcore.Core
	state *repeatState
}

type repeatKey struct {
	level   zapcore.Level
	message string
}

type repeatState struct {
	to zapcore.Core

	mu     sync.Mutex
	counts map[repeatKey]int // lines in this period
	timer  *time.Timer       // ends the period; nil if no line came since the last one
}

func newRepeats(to zapcore.Core) repeats {
	return repeats{to, &repeatState{to: to, counts: map[repeatKey]int{}}}
}

func (r repeats) With(fields []zapcore.Field) zapcore.Core {
	return repeats{r.Core.With(fields), r.state}
}

func (r repeats) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !r.Enabled(e.Level) || !r.state.admit(e) {
		return c
	}
	return r.Core.Check(e, c)
}

// admit counts a line, and reports whether it is to be written.
func (s *repeatState) admit(e zapcore.Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		s.timer = time.AfterFunc(repeatsPeriod, func() { _ = s.report() })
	}
	key := repeatKey{e.Level, e.Message}
	n, known := s.counts[key]
	if !known && len(s.counts) >= repeatsKinds {
		return true
	}
	s.counts[key] = n + 1
	return n < repeatsMost
}

// report ends the period, and says what it left out.
func (s *repeatState) report() error {
	s.mu.Lock()
	counts := s.counts
	s.counts = make(map[repeatKey]int, len(counts))
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.mu.Unlock()
	for key, n := range counts {
		if n > repeatsMost {
			_ = s.to.Write(zapcore.Entry{Level: key.level, Time: time.Now(), Message: "lines were left out that repeat a message"},
				[]zapcore.Field{zap.String("repeated", key.message), zap.Int("left_out", n-repeatsMost)})
		}
	}
	return nil
}
