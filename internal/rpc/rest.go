package rpc

import (
	"bytes"
	"context"
	"io"
	"maps"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/proto"

	"plinth/internal/errs"
	"plinth/internal/rpc/rest"
)

// REST routes are served by the Connect handlers, as calls without a body whose codec is restCodec. The interceptor fills the
// message from the REST request (fill) where it wraps every RPC anyhow, so that there is one stack, and a message is built
// once. What Connect writes is what the client gets, except for some headers.

// restTypes are the content types of these calls. Only the private handlers of REST know them.
const (
	restUnary  = "application/rest"
	restStream = "application/connect+rest"
)

// serveREST serves a REST route by the handler of its service.
func serveREST(ctx context.Context, c *call, handler http.Handler) {
	ctx, cancel, err := serverTimeout(ctx, c.request.Header)
	if err != nil {
		c.fail(ctx, err)
		return
	}
	defer cancel()
	if !c.readable() {
		c.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	r := c.request.WithContext(ctx)
	r.Method, r.URL, r.Body, r.ContentLength = http.MethodPost, &url.URL{Path: c.target.name}, http.NoBody, 0
	r.Header = maps.Clone(r.Header)
	for _, name := range []string{"Content-Encoding", "Connect-Protocol-Version", "Connect-Timeout-Ms", "Connect-Content-Encoding"} {
		delete(r.Header, name)
	}
	c.transcodes = true
	if c.target.streams {
		r.Header["Content-Type"] = []string{restStream}
		handler.ServeHTTP(nowhere{}, r) // The events are written by the interceptor.
		return
	}
	r.Header["Content-Type"] = []string{restUnary}
	w := &restWriter{call: c}
	handler.ServeHTTP(w, r)
	if !w.began { // The body of the reply is empty.
		w.WriteHeader(http.StatusOK)
	}
}

// serverTimeout shortens the deadline of a call as its client wants.
func serverTimeout(ctx context.Context, h http.Header) (context.Context, context.CancelFunc, error) {
	text := h.Get("X-Server-Timeout")
	if text == "" {
		return ctx, func() {}, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds > 0) || strings.Trim(text, "0123456789.") != "" {
		return ctx, nil, errs.New(errs.InvalidArgument, "X-Server-Timeout: seconds are allowed, such as 1.5")
	}
	timeout := time.Duration(min(seconds*float64(time.Second), math.MaxInt64/2))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return ctx, cancel, nil
}

// readable reports whether the body can be read: it is empty, or JSON in UTF-8, as it is or in gzip.
func (c *call) readable() bool {
	b := c.target.binding
	if !b.HasBody() || c.request.ContentLength == 0 {
		return true
	}
	switch strings.ToLower(c.request.Header.Get("Content-Encoding")) {
	case "", "identity", "gzip":
	default:
		return false
	}
	return b.Raw() || isJSON(c.request.Header.Get("Content-Type"))
}

// isJSON reports whether a content type is JSON in UTF-8, in any spelling. A body without a type is taken for JSON.
func isJSON(contentType string) bool {
	if contentType == "application/json" || contentType == "" {
		return true
	}
	kind, parameters, err := mime.ParseMediaType(contentType)
	charset, ok := parameters["charset"]
	return err == nil && kind == "application/json" && (!ok || strings.EqualFold(charset, "utf-8"))
}

// bodies are the buffers of bodies that were read.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooled is the largest buffer that is kept.
const maxPooled = 64 << 10

// fill makes message that of the REST request.
func (c *call) fill(ctx context.Context, message any) error {
	m, err := protoOf(message)
	if err != nil {
		return err
	}
	buffer := bodies.Get().(*bytes.Buffer)
	defer release(buffer)
	if err := c.readBody(ctx, buffer); err != nil {
		return err
	}
	return c.target.binding.Fill(m, rest.Request{
		Vars: c.vars, Query: c.request.URL.RawQuery, Body: buffer.Bytes(), ContentType: c.request.Header.Get("Content-Type"),
	})
}

var unpackers = sync.Pool{New: func() any { return new(unpacker) }}

// readBody reads the body, up to the size limit of a message.
func (c *call) readBody(ctx context.Context, to *bytes.Buffer) (err error) {
	if c.request.ContentLength == 0 {
		return nil
	}
	from := io.Reader(c.body)
	if !c.target.binding.HasBody() {
		from = io.LimitReader(from, 1) // enough to find that there is one
	} else if strings.EqualFold(c.request.Header.Get("Content-Encoding"), "gzip") {
		u := unpackers.Get().(*unpacker)
		defer unpackers.Put(u)
		_ = u.Reset(io.LimitReader(from, MaxMessageBytes+1)) // Its error is that of the first Read.
		from = u
	}
	_, err = to.ReadFrom(io.LimitReader(from, MaxMessageBytes+1))
	if err == nil && to.Len() > MaxMessageBytes {
		err = errTooLarge
	}
	if err == nil {
		return nil
	}
	return bare(unreadable(ctx, err))
}

// reply returns what is written for the response of an RPC.
func (c *call) reply(res connect.AnyResponse) connect.AnyResponse {
	m, ok := res.Any().(proto.Message)
	if !ok {
		return res
	}
	body, kind := c.target.binding.Reply(m)
	c.replyType = kind
	if body == m {
		return res
	}
	part := connect.NewResponse(&replyPart{body})
	maps.Copy(part.Header(), res.Header())
	maps.Copy(part.Trailer(), res.Trailer())
	return part
}

// replyPart is a part of a response that is sent alone.
type replyPart struct{ proto.Message }

// restCodec writes the replies of REST routes. It reads nothing: the interceptor does.
type restCodec struct{}

func (restCodec) Name() string { return "rest" }

func (restCodec) Unmarshal([]byte, any) error { return nil }

func (restCodec) Marshal(message any) ([]byte, error) { return restCodec{}.MarshalAppend(nil, message) }

func (restCodec) MarshalAppend(to []byte, message any) ([]byte, error) {
	if part, ok := message.(*replyPart); ok {
		message = part.Message
	}
	if raw, ok := message.(*httpbody.HttpBody); ok {
		return append(to, raw.GetData()...), nil
	}
	return jsonCodec{}.MarshalAppend(to, message)
}
