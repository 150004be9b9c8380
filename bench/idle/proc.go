package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serverTime returns the CPU time that the PostgreSQL server of a backend has used so far: that of the postmaster and of all
// its living children. It is the time that the scheduler has counted, in nanoseconds. The times of /proc/PID/stat are
// samples on many kernels, and far off for processes that run for a tenth of a millisecond at a time.
func serverTime(backend int) (time.Duration, error) {
	postmaster, err := parent(backend)
	if err != nil {
		return 0, fmt.Errorf("the server of DATABASE_URL must run on this machine, on Linux: %w", err)
	}
	sum, err := runTime(postmaster)
	if err != nil {
		return 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if p, err := parent(pid); err != nil || p != postmaster { // It may have ended meanwhile.
			continue
		}
		if t, err := runTime(pid); err == nil {
			sum += t
		}
	}
	return sum, nil
}

func parent(pid int) (parent int, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, fields, _ := strings.Cut(string(raw), ") ") // The name before it may have spaces.
	var state string
	_, err = fmt.Sscan(fields, &state, &parent)
	return parent, err
}

func runTime(pid int) (t time.Duration, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(raw), &t)
	return t, err
}
