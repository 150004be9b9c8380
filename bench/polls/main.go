// Command polls measures what idle long polls cost: it starts a server whose broker is in PostgreSQL, has thousands of calls of Pull wait
// on one queue, and reads the server's memory and CPU time. ../README.md explains how to read it.
//
// It needs a PostgreSQL that nobody else uses meanwhile, DATABASE_URL, and 20,000 open files (ulimit -n) unless -http2 is set.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/alicebob/miniredis/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/auth"
)

func main() { command.Main(run) }

const promised = 150 << 20 // bytes of memory for all polls together

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("polls", flag.ContinueOnError)
	polls := flags.Int("polls", 10_000, "calls that wait")
	http2 := flags.Bool("http2", false, "over a few connections with many calls each, not a connection a call")
	watched := flags.Duration("for", 10*time.Second, "how long to watch them; calls wait for 30 s, and most of that goes by until all of them do")
	profile := flags.String("heap", "", "write a profile of the server's heap, with the calls that wait, to this file")
	check := flags.Bool("check", false, "fail if the promise is broken")
	short := flags.Bool("short", false, "100 polls for 2 seconds: shows that it works, judges nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*polls, *watched = 100, 2*time.Second
	}
	s, err := start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	before, err := s.usage()
	if err != nil {
		return err
	}
	var waiting, failed atomic.Int64
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range *polls {
		client := s.client(i, *http2)
		all.Go(func() {
			waiting.Add(1)
			defer waiting.Add(-1)
			_, err := client.Pull(ctx, &messagev1.PullRequest{Queue: queue, Wait: durationpb.New(30 * time.Second)})
			if err != nil && ctx.Err() == nil {
				failed.Add(1)
			}
		})
		if i%100 == 99 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	time.Sleep(2 * time.Second)
	begin, err := s.usage()
	if err != nil {
		return err
	}
	time.Sleep(*watched)
	end, err := s.usage()
	if err != nil {
		return err
	}
	if failed.Load() > 0 || waiting.Load() < int64(*polls) {
		return fmt.Errorf("%d calls failed, and %d wait", failed.Load(), waiting.Load())
	}
	if *profile != "" {
		if err := s.profile(ctx, *profile); err != nil {
			return err
		}
	}
	heap, stacks, err := s.kept(ctx)
	if err != nil {
		return err
	}
	memory := end.memory - before.memory
	core := (end.cpu - begin.cpu).Seconds() / end.at.Sub(begin.at).Seconds()
	fmt.Fprintf(out, "%d idle long polls: %.0f MiB (%.1f KiB each), %.1f %% of a core; after a collection the heap has %.0f MiB, and stacks %.0f MiB\n",
		*polls, float64(memory)/(1<<20), float64(memory)/float64(*polls)/1024, 100*core, heap/(1<<20), stacks/(1<<20))
	if *check && memory > promised {
		return errors.New("promised are 150 MiB at the most")
	}
	return nil
}

const queue = "bench-polls"

type server struct {
	cmd     *exec.Cmd
	url     string
	admin   string
	key     string
	clients []*http.Client // of HTTP/2
	closers []func()
}

func (s *server) stop() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// start builds the server, starts it and creates the queue.
func start(ctx context.Context) (_ *server, err error) {
	dir, err := os.MkdirTemp("", "plinth-polls-")
	if err != nil {
		return nil, err
	}
	s := &server{key: auth.NewKey(), closers: []func(){func() { _ = os.RemoveAll(dir) }}}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	database, drop, err := scratch.Database(ctx)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { _ = drop() })
	redis, err := miniredis.Run()
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, redis.Close)
	if built, err := exec.CommandContext(ctx, "go", "build", "-o", dir, "plinth/cmd/server").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the server: %w\n%s", err, built)
	}
	s.cmd = exec.Command(filepath.Join(dir, "server"))
	s.cmd.Env = append(os.Environ(), "DATABASE_URL="+database, "BROKER=postgres", "REDIS_URL=redis://"+redis.Addr(), "AUTH_ADMIN_KEY="+s.key, "ADMIN_ADDR=127.0.0.1:0",
		"HTTP_ADDR=127.0.0.1:0", "HTTP_MAX_STREAMS=0", "SHUTDOWN_TIMEOUT=5s")
	log, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	})
	lines, address := bufio.NewScanner(log), regexp.MustCompile(`(listening|metrics).*"address":"([^"]+)"`)
	for (s.url == "" || s.admin == "") && lines.Scan() {
		if match := address.FindStringSubmatch(lines.Text()); match != nil {
			at := map[string]*string{"listening": &s.url, "metrics": &s.admin}[match[1]]
			*at = "http://" + match[2]
		}
	}
	if s.url == "" {
		return nil, errors.New("the server did not start")
	}
	go func() { // Nobody needs the log, but the server must be able to write it.
		for lines.Scan() {
		}
	}()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	for range 50 {
		s.clients = append(s.clients, &http.Client{Transport: keyed{&http.Transport{Protocols: &protocols}, "Bearer " + s.key}})
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, err = s.client(0, true).CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: queue}); err == nil || connect.CodeOf(err) == connect.CodeAlreadyExists {
			return s, nil
		}
	}
	return nil, err
}

// profile writes a profile of the server's heap.
func (s *server) profile(ctx context.Context, path string) error {
	profile, err := s.ask(ctx, "/debug/pprof/heap")
	if err != nil {
		return err
	}
	return os.WriteFile(path, profile, 0o600)
}

// kept returns the bytes that the heap still has after a collection, and those of stacks.
func (s *server) kept(ctx context.Context) (heap, stacks float64, err error) {
	if _, err = s.ask(ctx, "/debug/pprof/heap?gc=1"); err != nil {
		return 0, 0, err
	}
	metrics, err := s.ask(ctx, "/metrics")
	for line := range strings.Lines(string(metrics)) {
		for name, to := range map[string]*float64{"go_memstats_heap_alloc_bytes": &heap, "go_memstats_stack_inuse_bytes": &stacks} {
			if value, found := strings.CutPrefix(line, name+" "); found {
				*to, _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
			}
		}
	}
	return heap, stacks, err
}

// ask asks the address for who runs the server.
func (s *server) ask(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.admin+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	return io.ReadAll(res.Body)
}

// client returns the client of a call.
func (s *server) client(n int, http2 bool) messagev1.MessageServiceClient {
	if http2 {
		return messagev1.NewMessageServiceClient(s.clients[n%len(s.clients)], s.url, connect.WithGRPC())
	}
	return messagev1.NewMessageServiceClient(&http.Client{Transport: keyed{&http.Transport{}, "Bearer " + s.key}}, s.url)
}

// keyed sends the key with each request.
type keyed struct {
	http.RoundTripper
	header string
}

func (k keyed) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", k.header) // The request is used only here, so it may be changed.
	return k.RoundTripper.RoundTrip(req)
}

// usage is what the server has used up to a time.
type usage struct {
	at     time.Time
	memory int64 // resident
	cpu    time.Duration
}

func (s *server) usage() (u usage, err error) {
	dir := "/proc/" + strconv.Itoa(s.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	for line := range bytes.Lines(status) {
		if fields := strings.Fields(string(line)); fields[0] == "VmRSS:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			u.memory = kib << 10
		}
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	u.at, u.cpu = time.Now(), time.Duration(user+system)*time.Second/100
	return u, nil
}
