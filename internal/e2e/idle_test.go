package e2e

import (
	"bytes"
	wire "encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An idle process runs few statements on PostgreSQL and keeps few connections, so that many processes can share one server.
// The broker in PostgreSQL costs one connection more, and one statement a second in processes that consume; without it a
// process runs fewer than four a second.
func TestIdle(t *testing.T) {
	t.Parallel()
	settling, watched := 10*time.Second, 20*time.Second
	if ci() {
		settling = 80 * time.Second // until the connections that only the start needed are closed
		watched = time.Minute       // with everything that is done once a minute
	}
	const mostPerSecond, mostConns = 5, 6
	env := backends(t, "postgres")
	meters := map[string]*meter{}
	for _, name := range []string{"server", "worker"} {
		proxy, through := newProxy(t, env["DATABASE_URL"])
		meters[name] = &meter{statements: map[string]int{}}
		proxy.tap = meters[name].connection
		proxy.open()
		p := start(t, name, with(env, map[string]string{"DATABASE_URL": through}))
		t.Cleanup(func() { p.stop(t) })
		if name == "server" {
			ready(t, "http://"+p.address(t))
		}
	}
	<-time.After(settling)
	for _, m := range meters {
		m.reset()
	}
	for range int(watched / time.Second) {
		<-time.After(time.Second)
		for _, m := range meters {
			m.sample()
		}
	}
	for name, m := range meters {
		total, conns, listening := m.read()
		perSecond := float64(total) / watched.Seconds()
		t.Logf("%s: %.1f statements a second, %d connections, %d of them listening", name, perSecond, conns, listening)
		if perSecond > mostPerSecond {
			t.Errorf("an idle %s has more than %d statements a second:\n%s", name, mostPerSecond, m)
		}
		if listening != 1 || ci() && conns > mostConns {
			t.Errorf("an idle %s has %d connections, and listens on %d; want %d at most, and 1", name, conns, listening, mostConns)
		}
	}
}

// meter counts the statements and connections of a process to PostgreSQL, in a proxy.
type meter struct {
	mu         sync.Mutex
	statements map[string]int
	conns      int   // open now
	samples    []int // of conns
	listening  int   // those that listen
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.statements)
	m.samples = nil
}

func (m *meter) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples = append(m.samples, m.conns)
}

// read returns the statements since reset, and the median of the connections: work that is done once a minute opens some for a while.
func (m *meter) read() (total, conns, listening int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.statements {
		total += n
	}
	slices.Sort(m.samples)
	return total, m.samples[len(m.samples)/2], m.listening
}

// String lists the statements, most frequent first.
func (m *meter) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for sql, n := range m.statements {
		lines = append(lines, fmt.Sprintf("%5d %s", n, strings.Join(strings.Fields(sql), " ")))
	}
	slices.Sort(lines)
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

func (m *meter) connection() *tapped {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns++
	return &tapped{meter: m, prepared: map[string]string{}}
}

// tapped parses what a client of PostgreSQL sends over one connection.
type tapped struct {
	meter    *meter
	rest     []byte
	started  bool // the first message, which has no kind, was read
	prepared map[string]string
	bound    string
	listens  bool
}

// Write reads messages: a byte for the kind, then four bytes for the length of themselves and of what follows.
func (c *tapped) Write(b []byte) (int, error) {
	c.meter.mu.Lock()
	defer c.meter.mu.Unlock()
	c.rest = append(c.rest, b...)
	for {
		head := 1
		if !c.started {
			head = 0
		}
		if len(c.rest) < head+4 {
			return len(b), nil
		}
		end := head + int(wire.BigEndian.Uint32(c.rest[head:]))
		if len(c.rest) < end {
			return len(b), nil
		}
		if c.started {
			c.message(c.rest[0], c.rest[head+4:end])
		}
		c.started, c.rest = true, c.rest[end:]
	}
}

func (c *tapped) message(kind byte, body []byte) {
	next := func() string {
		text, rest, _ := bytes.Cut(body, []byte{0})
		body = rest
		return string(text)
	}
	switch kind {
	case 'Q': // Query
		for sql := range strings.SplitSeq(next(), ";") {
			c.count(sql)
		}
	case 'P': // Parse
		name := next()
		c.prepared[name] = next()
	case 'B': // Bind
		next()
		c.bound = c.prepared[next()]
	case 'E': // Execute
		c.count(c.bound)
	}
}

func (c *tapped) count(sql string) {
	c.meter.statements[sql]++
	if !c.listens && strings.HasPrefix(sql, "LISTEN") {
		c.listens = true
		c.meter.listening++
	}
}

func (c *tapped) close() {
	c.meter.mu.Lock()
	defer c.meter.mu.Unlock()
	c.meter.conns--
	if c.listens {
		c.meter.listening--
	}
}
