//go:build !linux

package dev

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent does nothing outside Linux: there the next start stops an orphaned PostgreSQL.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

// enterAnyFolder returns false: it works only on Linux.
func enterAnyFolder(*syscall.SysProcAttr) bool { return false }

// commandLine returns the arguments of a process, separated by spaces; "" if there is none.
func commandLine(pid int) string {
	output, err := exec.Command("/bin/ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(output))
}
