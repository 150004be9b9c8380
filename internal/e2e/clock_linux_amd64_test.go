package e2e

import (
	"bytes"
	"debug/elf"
	le "encoding/binary"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// clockCode is what a process with a clock of its own does to read time: it asks the kernel, and adds seconds to the time of day. The
// seconds are the eight bytes after the code.
var clockCode = []byte{
	0xb8, 0xe4, 0, 0, 0, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi
	0x75, 0x0a, // jnz ret, unless the clock is CLOCK_REALTIME
	0x48, 0x8b, 0x15, 6, 0, 0, 0, // mov rdx, [seconds]
	0x48, 0x01, 0x16, // add [rsi], rdx
	0xc3, // ret
	0, 0,
}

// clock is the time of day of a running process. Go reads it by code that the kernel maps into each process, the vDSO, so nothing
// that is preloaded could change it; this code is replaced, in the memory of that process alone.
type clock struct {
	p       *process
	seconds int64 // where they are in its memory
}

var vdso = regexp.MustCompile(`(?m)^([0-9a-f]+)-([0-9a-f]+) .*\[vdso\]$`)

// clockOf returns the clock of a process that has just been started, which is its own from now on, and right at first.
func clockOf(t testing.TB, p *process) *clock {
	t.Helper()
	c := &clock{p: p}
	c.edit(t, func(memory *os.File) error {
		var place [][]byte
		eventually(t, "the process has a vDSO", func() bool {
			maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.cmd.Process.Pid))
			place = vdso.FindSubmatch(maps)
			return place != nil
		})
		base, _ := strconv.ParseInt(string(place[1]), 16, 64)
		end, _ := strconv.ParseInt(string(place[2]), 16, 64)
		image := make([]byte, end-base)
		if _, err := memory.ReadAt(image, base); err != nil {
			return err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return err
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return err
		}
		var read, unused int64 // Go programs do not call the second one.
		for _, s := range symbols {
			switch s.Name {
			case "__vdso_clock_gettime":
				read = base + int64(s.Value)
			case "__vdso_gettimeofday":
				unused = base + int64(s.Value)
			}
		}
		c.seconds = unused + int64(len(clockCode))
		if _, err := memory.WriteAt(append(clockCode, make([]byte, 8)...), unused); err != nil {
			return err
		}
		const jump = 5
		_, err = memory.WriteAt(le.LittleEndian.AppendUint32([]byte{0xe9}, uint32(unused-read-jump)), read)
		return err
	})
	return c
}

// set has the clock be ahead of the right time, or behind it. It counts seconds.
func (c *clock) set(t testing.TB, ahead time.Duration) {
	t.Helper()
	c.edit(t, func(memory *os.File) error {
		_, err := memory.WriteAt(le.LittleEndian.AppendUint64(nil, uint64(ahead/time.Second)), c.seconds)
		return err
	})
}

func (c *clock) edit(t testing.TB, edit func(memory *os.File) error) {
	t.Helper()
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", c.p.cmd.Process.Pid), os.O_RDWR, 0)
	if err == nil {
		err = edit(memory)
		_ = memory.Close()
	}
	if err != nil {
		missing(t, fmt.Sprintf("this system lets nobody set the clock of %s alone: %v", c.p.name, err))
	}
}

// TestClock holds the tests that set clocks to what they say.
func TestClock(t *testing.T) {
	t.Parallel()
	server := start(t, "server", backends(t, "postgres"))
	c, url := clockOf(t, server), "http://"+server.address(t)+"/livez"
	for _, ahead := range []time.Duration{0, time.Hour, -2 * time.Hour} {
		c.set(t, ahead)
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		date, err := http.ParseTime(res.Header.Get("Date"))
		if off := date.Sub(time.Now().Add(ahead)); err != nil || off.Abs() > time.Minute {
			t.Errorf("a clock %s ahead is %s off, %v", ahead, off, err)
		}
	}
}
