package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"go.uber.org/zap"
)

// serveAdmin serves what only the machine's own people may see, on an address of its own, until ctx ends. An address that is
// taken is no reason not to serve: several processes of one machine have the same default.
func (a *App) serveAdmin(ctx context.Context) error {
	if a.cfg.Process.AdminAddr == "" {
		return nil
	}
	listener, err := net.Listen("tcp", a.cfg.Process.AdminAddr)
	if err != nil {
		a.log.Warn("no metrics and no pprof: ADMIN_ADDR cannot be listened on; set it to another address, or to nothing", zap.Error(err))
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	a.log.Info("serving metrics and pprof", zap.Stringer("address", listener.Addr()))
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
