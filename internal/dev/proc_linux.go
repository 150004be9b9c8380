package dev

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func dieWithParent(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }

// enterAnyFolder lets a child that drops root enter folders its user may not, and reports whether we can grant it that.
func enterAnyFolder(attr *syscall.SysProcAttr) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 has two words for 64 capabilities
	if err := unix.Capget(&header, &data[0]); err != nil || data[0].Permitted&(1<<unix.CAP_DAC_OVERRIDE) == 0 {
		return false
	}
	attr.AmbientCaps = []uintptr{unix.CAP_DAC_OVERRIDE}
	return true
}

// commandLine returns the arguments of a process, separated by spaces; "" if there is none.
func commandLine(pid int) string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(raw), "\x00", " ")
}
