package rpc

import (
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Limits of the one port. There is no read or write timeout for the whole server: it would cut streams. Each unary call
// has a deadline of its own instead.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	maxStreams     = 1000 // of one HTTP/2 connection
	pingAfter      = 15 * time.Second
	pingTimeout    = 15 * time.Second
	writeTimeout   = 15 * time.Second // of an HTTP/2 connection that takes not a byte
)

// GCPercent is the GOGC that a process with the port runs with unless its environment says otherwise. Its live heap is a few MiB,
// which would be collected many times a second with Go's default of 100 (docs/adr/0014).
const GCPercent = 200

// NewServer returns the server of the one port: HTTP/1.1 and HTTP/2, without TLS by prior knowledge. What net/http has to
// say about clients' handshakes and resets goes to log at debug.
func NewServer(handler http.Handler, log *zap.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	errorLog, _ := zap.NewStdLogAt(log, zap.DebugLevel) // The level is known, so it cannot fail.
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams,
			// Finds peers that are gone without a word, whose streams would be held for ever.
			SendPingTimeout: pingAfter,
			PingTimeout:     pingTimeout,
			// Finds those that send and never read. No deadline of a call does: its reset would wait behind what is not read.
			WriteByteTimeout: writeTimeout,
		},
		ErrorLog: errorLog,
	}
}
