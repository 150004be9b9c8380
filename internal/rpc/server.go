package rpc

import (
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Limits of the port. There is no read or write timeout for the whole server, because it would cut off streams. Each unary
// call has a deadline instead.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	maxStreams     = 1000 // per HTTP/2 connection
	pingAfter      = 15 * time.Second
	pingTimeout    = 15 * time.Second
	writeTimeout   = 15 * time.Second // for an HTTP/2 connection that accepts no bytes
)

// GCPercent is the GOGC of a process with the port, unless its environment sets another. The live heap is a few MiB, and
// Go's default of 100 would collect it many times a second (docs/adr/0014).
const GCPercent = 200

// NewServer returns the server of the port: HTTP/1.1 and HTTP/2, the latter by prior knowledge if there is no TLS. What
// net/http logs about handshakes and resets by clients goes to log at debug.
func NewServer(handler http.Handler, log *zap.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	errorLog, _ := zap.NewStdLogAt(log, zap.DebugLevel) // The level is valid, so it cannot fail.
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams,
			// This detects peers that vanished silently, whose streams would be held forever.
			SendPingTimeout: pingAfter,
			PingTimeout:     pingTimeout,
			// This detects peers that send and never read. No call deadline does: its reset would wait behind the unread
			// data.
			WriteByteTimeout: writeTimeout,
		},
		ErrorLog: errorLog,
	}
}
