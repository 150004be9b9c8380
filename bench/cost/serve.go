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

// StubID is what Stub answers.
const StubID = "0192b3c4-5d6e-7f80-91a2-b3c4d5e6f708"

// Stub is a service that costs nothing.
type Stub struct {
	messagev1.UnimplementedMessageServiceHandler
}

// Publish answers StubID.
func (Stub) Publish(context.Context, *messagev1.PublishRequest) (*messagev1.PublishResponse, error) {
	return &messagev1.PublishResponse{Id: StubID}, nil
}

// Bare is the service as Connect's own guide mounts it.
func Bare() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(messagev1.NewMessageServiceHandler(Stub{}))
	return mux
}

// Serve is a server process. It prints its address, then answers a command for each line of in, until in ends.
func Serve(handler func(*observe.Logs) (http.Handler, error), in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt) // It reaches this process too; the end of in comes when the parent has stopped.
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

// Full is the service behind the whole stack, mounted as internal/app does it.
func Full(cfg rpc.Config) (http.Handler, error) {
	cfg.Timeout = callTimeout
	stack := rpc.New(cfg)
	options := connect.WithHandlerOptions(stack.Options()...)
	service := rpc.Mount(messagev1.NewMessageServiceHandler(Stub{}, options))
	rest, err := rpc.REST([]rpc.Service{service})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(service.Path, service.Handler)
	mux.Handle("/api/", rest)
	mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(messagev1.MessageServiceName), options))
	reflector := grpcreflect.NewStaticReflector(messagev1.MessageServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options))
	for _, plain := range []string{"GET /health", "GET /livez", "GET /readyz", "GET /openapi.yaml"} {
		mux.Handle(plain, http.NotFoundHandler())
	}
	return stack.Handler(mux), nil
}

const callTimeout = 30 * time.Second

// obey answers "cpu" with the CPU time of this process, user and system, in nanoseconds; "profile <file>" begins a CPU
// profile and "stop" ends it.
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
