// Command channel measures how many messages a second are delivered to many streams of Server-Sent Events, and how much memory a stream
// takes. ../README.md explains how to read it.
//
// It needs Redis (REDIS_URL), by default that on this machine, and starts itself again as the server.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"go.uber.org/zap"

	channelv1 "plinth/api/plinth/channel/v1"
	"plinth/bench/command"
	"plinth/internal/auth"
	"plinth/internal/channel"
	"plinth/internal/kv"
	"plinth/internal/rpc"
)

// What is promised.
const (
	deliveries = 100_000 // a second
	perStream  = 32 << 10
)

// limits are those of the service.
var limits = channel.Limits{HistorySize: 100, HistoryTTL: 5 * time.Minute, HistoryBytes: 1 << 20, MaxPayloadSize: 64 << 10, ReplyTimeout: 10 * time.Second}

func main() {
	command.Main(func(ctx context.Context, args []string, w io.Writer) error {
		if len(args) == 2 && args[0] == "serve" {
			return serve(ctx, args[1])
		}
		return run(ctx, args, w)
	})
}

// start starts a service on Redis.
func start(ctx context.Context) (*channel.Service, error) {
	client, err := kv.Open(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379"))
	if err != nil {
		return nil, err
	}
	kv.LogTo(zap.NewNop())
	s := channel.New(channel.Config{Redis: client, Limits: limits, Log: zap.NewNop()})
	go func() { _ = s.Run(ctx) }()
	return s, nil
}

// serve is the server: the production stack without authentication, whose callers all are of one tenant. It prints its address, and for
// each line that it reads, what memory it has after a collection, how much of that is stacks, and the CPU time that it has used, in bytes
// and nanoseconds. A line that is not empty names a file for a profile of its heap.
func serve(ctx context.Context, tenant string) error {
	s, err := start(ctx)
	if err != nil {
		return err
	}
	stack := rpc.New(rpc.Config{
		Log: zap.NewNop(), Timeout: time.Minute,
		Authenticate: func(context.Context, string) (*auth.Principal, error) {
			return &auth.Principal{ID: "bench", Tenant: auth.Tenant{Name: tenant}, Scopes: []string{auth.All}}, nil
		},
	})
	handler, err := stack.Handler([]rpc.Service{func(o ...connect.HandlerOption) (string, http.Handler) {
		return channelv1.NewChannelServiceHandler(channel.NewRPC(s), o...)
	}}, nil)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = rpc.NewServer(handler, zap.NewNop()).Serve(listener) }()
	fmt.Println(listener.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		memory, stacks, err := settled()
		if err == nil && lines.Text() != "" {
			err = profile(lines.Text())
		}
		if err != nil {
			return err
		}
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			return err
		}
		fmt.Println(memory, stacks, used.Utime.Nano()+used.Stime.Nano())
	}
	return nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("channel", flag.ContinueOnError)
	streams := flags.Int("streams", 10_000, "streams")
	length := flags.Duration("for", 10*time.Second, "how long messages are published")
	window := flags.Int("window", 20, "messages that are on their way at a time")
	heap := flags.String("heap", "", "file for a profile of the server's heap with idle streams")
	check := flags.Bool("check", false, "fail if a promise is broken")
	short := flags.Bool("short", false, "100 streams for a second: shows that it works, judges nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*streams, *length = 100, time.Second
	}
	b := &bench{tenant: "bench-" + uuid.NewString()[:8]}
	defer b.close()
	if err := b.serve(ctx); err != nil {
		return err
	}
	before, err := b.ask("")
	if err != nil {
		return err
	}
	if err := b.subscribe(ctx, *streams); err != nil {
		return err
	}
	idle, err := b.ask(*heap)
	if err != nil {
		return err
	}
	rate, cpu, late, err := b.deliver(ctx, *streams, *length, *window)
	if err != nil {
		return err
	}
	after, err := b.ask("")
	if err != nil {
		return err
	}
	each := func(memory int64) float64 { return float64(memory) / float64(*streams) / 1024 }
	idleEach, afterEach := each(idle.memory-before.memory), each(after.memory-before.memory)
	fmt.Fprintf(out, "%d streams: %.0f deliveries a second, %.2f s of the server's CPU for 100,000, a message reaches the last stream after p50 %v, p99 %v\n",
		*streams, rate, cpu, late[len(late)/2].Round(time.Millisecond), late[len(late)*99/100].Round(time.Millisecond))
	fmt.Fprintf(out, "memory of each: %.1f KiB idle, of which %.1f KiB are stacks, %.1f KiB after the messages\n", idleEach, each(idle.stacks-before.stacks), afterEach)
	if *check && (rate < deliveries || max(idleEach, afterEach)*1024 > perStream) {
		return errors.New("a promise is broken")
	}
	return nil
}

// bench is the server and its clients.
type bench struct {
	tenant string
	server *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	addr   string
	conns  []net.Conn
	opened sync.WaitGroup
	got    atomic.Int64 // messages that streams have
	faults atomic.Int64
}

func (b *bench) close() {
	for _, conn := range b.conns {
		_ = conn.Close()
	}
	if b.server != nil {
		_ = b.server.Process.Kill()
		_ = b.server.Wait()
	}
}

func (b *bench) serve(ctx context.Context) error {
	b.server = exec.CommandContext(ctx, os.Args[0], "serve", b.tenant)
	b.server.Env, b.server.Stderr = append(os.Environ(), "GOGC="+strconv.Itoa(rpc.GCPercent)), os.Stderr
	var err error
	if b.stdin, err = b.server.StdinPipe(); err != nil {
		return err
	}
	stdout, err := b.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.server.Start(); err != nil {
		return err
	}
	b.stdout = bufio.NewScanner(stdout)
	if !b.stdout.Scan() {
		return errors.New("the server does not start")
	}
	b.addr = b.stdout.Text()
	return nil
}

// usage is what the server uses.
type usage struct {
	memory, stacks int64
	cpu            time.Duration
}

// ask returns what the server uses, and has it write a profile of its heap into a file, unless that has no name.
func (b *bench) ask(heap string) (u usage, err error) {
	if _, err := io.WriteString(b.stdin, heap+"\n"); err != nil {
		return u, err
	}
	if !b.stdout.Scan() {
		return u, errors.New("the server ended")
	}
	_, err = fmt.Sscan(b.stdout.Text(), &u.memory, &u.stacks, &u.cpu)
	return u, err
}

// subscribe opens streams, and waits until all of them are open.
func (b *bench) subscribe(ctx context.Context, streams int) error {
	var dialer net.Dialer
	for range streams {
		conn, err := dialer.DialContext(ctx, "tcp", b.addr)
		if err != nil {
			return fmt.Errorf("%w; each stream takes a file: ulimit -n", err)
		}
		b.conns = append(b.conns, conn)
		if _, err := io.WriteString(conn, "GET /api/v1/channels:subscribe?channel=c HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer x\r\n\r\n"); err != nil {
			return err
		}
		b.opened.Add(1)
		go b.read(conn)
	}
	b.opened.Wait()
	return nil
}

// read counts the messages of a stream by their data.
func (b *bench) read(conn net.Conn) {
	buffer := make([]byte, 4<<10)
	open, tail := false, 0
	for {
		n, err := conn.Read(buffer[tail:])
		if err != nil {
			return
		}
		text := buffer[:tail+n]
		if !open && bytes.Contains(text, []byte(`"subscribed"`)) {
			open = true
			b.opened.Done()
		}
		if bytes.Contains(text, []byte(`"gap"`)) {
			b.faults.Add(1)
		}
		b.got.Add(int64(bytes.Count(text, mark)))
		tail = copy(buffer, text[max(0, len(text)-len(mark)+1):])
	}
}

// mark is once in each message, and in nothing else.
var mark = []byte("=bench=")

// deliver publishes as fast as the streams get what is published, and returns how many messages they get a second, the seconds of CPU
// time for 100,000 of them, and how long it took until all had each message, sorted.
func (b *bench) deliver(ctx context.Context, streams int, length time.Duration, window int) (rate, cpu float64, late []time.Duration, err error) {
	ctx, cancel := context.WithCancel(auth.AsService(ctx, b.tenant))
	defer cancel()
	s, err := start(ctx)
	if err != nil {
		return 0, 0, nil, err
	}
	name, err := channel.ParseName("c")
	if err != nil {
		return 0, 0, nil, err
	}
	p := channel.Publication{Channel: name, Payload: []byte(string(mark) + strings.Repeat("x", 256)), Text: true}
	for {
		if _, err = s.GetChannel(ctx, name); err == nil {
			break
		}
		if err = ctx.Err(); err != nil {
			return 0, 0, nil, err
		}
	}
	before, err := b.ask("")
	if err != nil {
		return 0, 0, nil, err
	}
	began := time.Now()
	var sent []time.Time
	for time.Since(began) < length || len(late) < len(sent) {
		for int64(len(late)+1)*int64(streams) <= b.got.Load() {
			late = append(late, time.Since(sent[len(late)]))
		}
		if len(sent)-len(late) >= window || time.Since(began) >= length {
			if time.Since(began) > length+time.Minute {
				return 0, 0, nil, fmt.Errorf("%d of %d deliveries did not come, and %d gaps", int64(len(sent)*streams)-b.got.Load(), len(sent)*streams, b.faults.Load())
			}
			time.Sleep(time.Millisecond)
			continue
		}
		sent = append(sent, time.Now())
		if _, err := s.Publish(ctx, p); err != nil {
			return 0, 0, nil, err
		}
	}
	took := time.Since(began)
	after, err := b.ask("")
	if err != nil {
		return 0, 0, nil, err
	}
	slices.Sort(late)
	n := float64(len(sent) * streams)
	return n / took.Seconds(), (after.cpu - before.cpu).Seconds() / n * 100_000, late, nil
}
