// Package cost runs servers in processes of their own, so that their CPU time does not include that of the load, and calls
// them.
package cost

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Process is a server in a process of its own. It ends when its standard input does, so that it never outlives this process.
type Process struct {
	Name    string
	Address string // host:port
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

// Start starts this program again, with the arguments "serve" and name. It then calls Serve.
func Start(name string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, command: exec.Command(self, "serve", name)}
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
	if p.Address, err = p.answer(); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// Stop ends the server.
func (p *Process) Stop() {
	p.in.Close()
	_ = p.command.Wait() // Its errors are on standard error already.
}

// Ask sends a command and reads its answer.
func (p *Process) Ask(command string) (string, error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return "", err
	}
	return p.answer()
}

func (p *Process) answer() (string, error) {
	line, err := p.out.ReadString('\n')
	return strings.TrimSpace(line), err
}

// CPU returns the CPU time that the server has used so far, user and system.
func (p *Process) CPU() (time.Duration, error) {
	answer, err := p.Ask("cpu")
	if err != nil {
		return 0, err
	}
	nanos, err := strconv.ParseInt(answer, 10, 64)
	return time.Duration(nanos), err
}

// Profile writes a CPU profile of the server while run runs. The file has the names of the server and the load.
func (p *Process) Profile(folder, load string, run func() error) error {
	file, err := filepath.Abs(filepath.Join(folder, p.Name+"-"+load+".pprof"))
	if err != nil {
		return err
	}
	if _, err := p.Ask("profile " + file); err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	_, err = p.Ask("stop")
	return err
}
