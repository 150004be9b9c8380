package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// process is a server in a process of its own. It ends with its standard input, so that it never outlives this one.
type process struct {
	name    string
	address string // host:port
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

func start(name string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, command: exec.Command(self, "serve", name)}
	p.command.Stderr = os.Stderr
	if p.in, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	if p.address, err = p.answer(); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) stop() {
	p.in.Close()
	_ = p.command.Wait() // What it has to say is on standard error already.
}

// ask sends a command and reads its answer.
func (p *process) ask(command string) (string, error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return "", err
	}
	return p.answer()
}

func (p *process) answer() (string, error) {
	line, err := p.out.ReadString('\n')
	return strings.TrimSpace(line), err
}

// cpu is the CPU time that the server has used so far, user and system.
func (p *process) cpu() (time.Duration, error) {
	answer, err := p.ask("cpu")
	if err != nil {
		return 0, err
	}
	nanos, err := strconv.ParseInt(answer, 10, 64)
	return time.Duration(nanos), err
}
