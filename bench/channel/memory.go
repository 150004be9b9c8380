package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
)

// settled returns the resident memory of the process once what it does not use is given back, and how much of it is stacks, in bytes.
func settled() (memory, stacks int64, err error) {
	for range 4 { // Each collection halves stacks that are too large.
		runtime.GC()
	}
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rest, &memory); err != nil {
		return 0, 0, err
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return memory << 10, int64(stats.StackInuse), nil
}

// profile writes a profile of the heap.
func profile(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.WriteHeapProfile(file); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}
