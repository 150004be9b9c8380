package cost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/observe"
	"plinth/internal/rpc"
)

// StubID is the id that Stub returns.
const StubID = "0192b3c4-5d6e-7f80-91a2-b3c4d5e6f708"

// Stub is a service that does nothing.
type Stub struct {
	messagev1.UnimplementedMessageServiceHandler
}

// Publish returns StubID.
func (Stub) Publish(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return &messagev1.PublishResponse{Id: StubID}, nil
}

// Bare returns the handler of the service as Connect's own guide mounts it.
func Bare() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(messagev1.NewMessageServiceHandler(Stub{}))
	return mux
}

// Serve is a server process. It prints its address, then answers a command for each line of in, until in ends.
func Serve(handler func(*observe.Logs) (http.Handler, error), in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt) // A terminal sends it to this process as well, which has to wait until the parent closes in.
	folder, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	logs, err := observe.NewLogs(observe.LogConfig{
		Level: "info", Format: "json", File: filepath.Join(folder, "server.log"), MaxSize: 100, MaxBackups: 1,
	})
	if err != nil {
		return err
	}
	defer logs.Close()
	mounted, err := handler(logs)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := rpc.NewServer(mounted, logs.Main)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Fprintln(out, listener.Addr())
	err = obey(in, out)
	server.Close()
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		return served
	}
	return err
}

// Full returns the handler of the service behind the whole stack, mounted as internal/app does it.
func Full(cfg rpc.Config) (http.Handler, error) {
	cfg.Timeout = callTimeout
	stack := rpc.New(cfg)
	reflector := grpcreflect.NewStaticReflector(messagev1.MessageServiceName)
	services := []rpc.Service{
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return messagev1.NewMessageServiceHandler(Stub{}, o...)
		},
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpchealth.NewHandler(grpchealth.NewStaticChecker(messagev1.MessageServiceName), o...)
		},
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpcreflect.NewHandlerV1(reflector, o...)
		},
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpcreflect.NewHandlerV1Alpha(reflector, o...)
		},
	}
	var routes []rpc.Route
	for _, plain := range []string{"GET /health", "GET /livez", "GET /readyz", "GET /openapi.yaml"} {
		routes = append(routes, rpc.Route{Pattern: plain, Public: true, Serve: func(http.ResponseWriter, *http.Request) error { return nil }})
	}
	return stack.Handler(services, routes)
}

const callTimeout = 30 * time.Second

// obey executes commands. The answer to "cpu" is the CPU time of this process, user and system, in nanoseconds; "profile
// <file>" begins a CPU profile and "stop" ends it.
func obey(in io.Reader, out io.Writer) error {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		command, file, _ := strings.Cut(lines.Text(), " ")
		var answer any = "ok"
		switch command {
		case "cpu":
			var u syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
				return err
			}
			answer = u.Utime.Nano() + u.Stime.Nano()
		case "profile":
			f, err := os.Create(file)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
		case "stop":
			pprof.StopCPUProfile()
		default:
			return fmt.Errorf("unknown command %q", command)
		}
		fmt.Fprintln(out, answer)
	}
	return nil
}
