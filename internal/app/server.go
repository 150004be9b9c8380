package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"plinth/internal/rpc"
)

// newServer returns the server of the one port. Its shutdown makes the streams finish.
func (a *App) newServer() *http.Server {
	server := rpc.NewServer(a.handler, a.log)
	server.ConnContext = a.stack.ConnContext
	server.RegisterOnShutdown(a.drain)
	return server
}

// listen listens on the port, with TLS if a certificate is set.
func (a *App) listen(server *http.Server) (net.Listener, error) {
	if a.cfg.HTTP.TLSCertFile != "" {
		var err error
		if a.certificate, err = loadCertificate(a.cfg.HTTP.TLSCertFile, a.cfg.HTTP.TLSKeyFile, a.log); err != nil {
			return nil, wrong("TLS_CERT_FILE", fmt.Errorf("and TLS_KEY_FILE do not load: %w", err))
		}
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.certificate.get}
	}
	listener, err := net.Listen("tcp", a.cfg.HTTP.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another process: stop it, or set HTTP_ADDR to another address", a.cfg.HTTP.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("HTTP_ADDR: %w", err)
	}
	return listener, nil
}

func serve(server *http.Server, listener net.Listener) error {
	var err error
	if server.TLSConfig != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
