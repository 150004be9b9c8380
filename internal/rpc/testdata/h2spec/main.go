// Command h2spec runs the h2spec suite (https://github.com/summerwind/h2spec), whose program is its argument, against the
// production stack and against a plain net/http server. It fails if ours fails a case that the plain one passes: faults of
// net/http are not ours to fix.
package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/rpc"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: h2spec <program of h2spec>")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
		os.Exit(1)
	}
}

func run(program string) error {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello")
	})
	stack := rpc.New(rpc.Config{Log: zap.NewNop(), Timeout: 30 * time.Second})
	var routes []rpc.Route
	for _, pattern := range []string{"GET /{path=**}", "POST /{path=**}"} {
		routes = append(routes, rpc.Route{Pattern: pattern, Public: true, Serve: func(w http.ResponseWriter, r *http.Request) error {
			hello(w, r)
			return nil
		}})
	}
	handler, err := stack.Handler(nil, routes)
	if err != nil {
		return err
	}
	ours := rpc.NewServer(handler, zap.NewNop())
	bare := &http.Server{Handler: hello, Protocols: ours.Protocols, ErrorLog: ours.ErrorLog}

	var ourFaults, bareFaults map[string]bool
	var both errgroup.Group
	both.Go(func() (err error) {
		ourFaults, err = faults(program, ours)
		return err
	})
	both.Go(func() (err error) {
		bareFaults, err = faults(program, bare)
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	for fault := range ourFaults {
		if !bareFaults[fault] {
			err = errors.Join(err, errors.New("only ours fails: "+fault))
		}
	}
	fmt.Printf("Ours fails %d cases, bare net/http %d.\n", len(ourFaults), len(bareFaults))
	return err
}

// faults returns the cases that a server fails.
func faults(program string, server *http.Server) (map[string]bool, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer server.Close()
	go func() { _ = server.Serve(listener) }()

	folder, err := os.MkdirTemp("", "h2spec")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	file := filepath.Join(folder, "report.xml")
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, err
	}
	// The path must be one that the routes serve: what is answered before the body is read can be over before the faults come.
	// The exit status only reports whether a case failed, which the report shows too.
	out, runErr := exec.Command(program, "--host", "127.0.0.1", "--port", port, "--path", "/hello", "--timeout", "4",
		"--junit-report", file).CombinedOutput()
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("no report: %w: %w\n%s", err, runErr, out)
	}
	return parse(data)
}

func parse(data []byte) (map[string]bool, error) {
	var report struct {
		Suites []struct {
			Cases []struct {
				Section string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &report); err != nil {
		return nil, err
	}
	faults, cases := map[string]bool{}, 0
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			cases++
			if c.Failure != nil || c.Error != nil {
				faults[c.Section+": "+c.Name] = true
			}
		}
	}
	if cases == 0 {
		return nil, errors.New("the report has no cases")
	}
	return faults, nil
}
