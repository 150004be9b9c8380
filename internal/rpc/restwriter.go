package rpc

import (
	"net/http"
	"strings"

	"connectrpc.com/connect"
)

// restWriter makes of a reply that Connect writes one of a REST route.
type restWriter struct {
	*call
	began    bool
	bodyless bool // what Connect writes is left out
}

func (w *restWriter) WriteHeader(status int) {
	if w.began {
		return
	}
	w.began = true
	h := w.Header()
	delete(h, "Accept-Encoding") // It is meant for a Connect client.
	switch {
	case status == http.StatusOK && w.unchanged():
		status, w.bodyless = http.StatusNotModified, true
		delete(h, "Content-Encoding")
		delete(h, "Content-Type")
	case status == http.StatusOK:
		h["Content-Type"] = []string{w.replyType}
	case w.code == connect.CodeFailedPrecondition && w.conditional():
		status = http.StatusPreconditionFailed
	}
	w.call.WriteHeader(status)
}

func (w *restWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.bodyless {
		return len(p), nil
	}
	return w.call.Write(p)
}

// unchanged reports whether the client has the reply already, as it says in If-None-Match (RFC 9110, 13.1.2).
func (w *restWriter) unchanged() bool {
	tag := strings.TrimPrefix(w.Header().Get("ETag"), "W/")
	if tag == "" || w.method != http.MethodGet && w.method != http.MethodHead {
		return false
	}
	known, ok := ParseTags(w.request.Header["If-None-Match"])
	return ok && known.Has(tag, true)
}

// conditional reports whether the call is to be made only if the resource is as its client says.
func (w *restWriter) conditional() bool {
	h := w.request.Header
	return h.Get("If-Match") != "" || h.Get("If-None-Match") != ""
}

// nowhere takes what Connect writes of a stream that is sent as events.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
func (nowhere) Flush()                      {}
