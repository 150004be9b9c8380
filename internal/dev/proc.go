package dev

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// child is a process of ours in a process group of its own, so that a terminal's Ctrl-C reaches only us and we decide in
// which order things end.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and was reaped
	err  error         // how it ended; to be read after done
}

// startChild starts cmd, whose process gets the signal orphaned when ours is killed (on Linux).
func startChild(cmd *exec.Cmd, orphaned syscall.Signal) (*child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, orphaned)
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// To the kernel the parent is the thread that forked, so this goroutine keeps its thread while the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// step of stopping: a signal, and how long the process may take to end after it.
type step struct {
	signal syscall.Signal
	grace  time.Duration
}

// stop takes the steps until the process has ended, and kills its group after the last one.
func (c *child) stop(steps ...step) {
	for _, s := range steps {
		_ = c.cmd.Process.Signal(s.signal) // it fails only when the process has ended
		select {
		case <-c.done:
			return
		case <-time.After(s.grace):
		}
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	<-c.done
}

// runChild runs cmd to its end and returns what it printed. When ctx ends first, its process group is killed.
func runChild(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second // a grandchild that holds the pipe open must not hold us
	c, err := startChild(cmd, syscall.SIGKILL)
	if err != nil {
		return "", err
	}
	select {
	case <-c.done:
		return output.String(), c.err
	case <-ctx.Done():
		c.stop()
		return output.String(), ctx.Err()
	}
}

// tied returns a command whose process group ends with ours on any system. A shell in that group reads from a pipe that we
// hold, and kills the group when the pipe ends: when we end, or by untie, which must be called when the command has ended.
func tied(name string, args ...string) (cmd *exec.Cmd, untie func(), err error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, nil, os.NewSyscallError("pipe", err)
	}
	watch := `(read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$0" "$@" 3<&-`
	cmd = exec.Command("/bin/sh", append([]string{"-c", watch, name}, args...)...)
	cmd.ExtraFiles = []*os.File{theirs}
	return cmd, func() { _, _ = ours.Close(), theirs.Close() }, nil
}
