package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// serveAdmin serves metrics, pprof, the state of the process and the level of its log on an address of its own until ctx ends. If the address is taken, the process goes on
// without them: several processes of one machine have the same default.
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
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /debug/state", a.serveState)
	mux.HandleFunc("GET /debug/traces", a.serveTraces)
	mux.Handle("GET /log/level", a.logs.Level)
	mux.Handle("PUT /log/level", a.logs.Level)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: localNames(listener.Addr(), mux), ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	a.log.Info("serving metrics and pprof", zap.Stringer("address", listener.Addr()))
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// localNames refuses requests to a loopback address by another name than localhost. A page that has its own name resolve to 127.0.0.1 (DNS
// rebinding) is of one origin with this address for the browser, and could read and set all that is here.
func localNames(addr net.Addr, next http.Handler) http.Handler {
	if tcp, ok := addr.(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := (&url.URL{Host: r.Host}).Hostname()
		if _, err := netip.ParseAddr(host); err != nil && !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
			http.Error(w, "this address answers to localhost and to IP addresses only; set ADMIN_ADDR to one that is no loopback address to serve it by another name",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// reopenLogs opens the file of the log anew with each SIGHUP until ctx ends, for who has moved it away.
func (a *App) reopenLogs(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if err := a.logs.Reopen(); err != nil {
			a.log.Error("the file of the log cannot be opened anew; the one before is written on", zap.Error(err))
			continue
		}
		a.log.Info("the log is opened anew")
	}
}
