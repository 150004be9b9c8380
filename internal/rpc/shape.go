package rpc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"plinth/internal/errs"
)

// body is the shape of an error on every JSON surface. It is Connect's own
// (https://connectrpc.com/docs/protocol/#error-end-stream).
type body struct {
	Code    string   `json:"code"`
	Message string   `json:"message,omitempty"`
	Details []detail `json:"details,omitempty"`
}

type detail struct {
	Type  string          `json:"type"`
	Value string          `json:"value"`
	Debug json.RawMessage `json:"debug,omitempty"`
}

// shapeErrors writes every error reply in the same shape.
func shapeErrors(next link) link {
	return func(ctx context.Context, c *call) {
		defer c.shapeError()
		next(ctx, c)
	}
}

// shapeError writes the error reply that was held back. Connect's own errors have the right shape already; the stack itself, or
// Connect before it knows the protocol, replies with a status alone.
func (c *call) shapeError() {
	if c.failure == nil {
		return
	}
	header := c.Header()
	if c.isGRPC() && c.status == http.StatusNotFound {
		c.unknownProcedure()
		return
	}
	if b := c.reshaped(); b != nil {
		c.failure, _ = json.Marshal(b) // These are strings and JSON that was just encoded, so it cannot fail.
		header.Set("Content-Type", "application/json")
		if c.isGRPC() || c.noProtocol() {
			// A gRPC client does not read bodies. With plain application/json it would take this for a Connect error and try
			// to read it.
			header.Set("Content-Type", "application/json; charset=utf-8")
		}
		header.Del("Content-Encoding")
	}
	header.Set("Content-Length", strconv.Itoa(len(c.failure)))
	c.ResponseWriter.WriteHeader(c.status)
	_, _ = c.ResponseWriter.Write(c.failure)
}

// reshaped returns the body that the reply should have, or nil if it is right as it is: Connect's own error of an RPC, or
// JSON that a handler wrote on purpose, such as that of /health. It adds details to an error that occurred before the call
// reached an RPC, such as a body that does not parse.
func (c *call) reshaped() *body {
	if c.Header().Get("Content-Type") != "application/json" {
		return c.plainBody()
	}
	b := &body{}
	if c.procedure != "" || c.answered || json.Unmarshal(c.failure, b) != nil || b.Code == "" {
		return nil
	}
	if c.procedure == "" {
		c.beforeRPC(b)
	}
	return b
}

// plainBody returns the error of a request that no handler accepted.
func (c *call) plainBody() *body {
	b := &body{Code: connect.CodeInternal.String()}
	switch c.status {
	case http.StatusNotFound:
		b.Code = connect.CodeNotFound.String()
		b.Message = "no such path: " + errs.Shortened(c.path, maxField) + "; GET /openapi.yaml lists them"
	case http.StatusMethodNotAllowed:
		b.Code = connect.CodeUnimplemented.String()
		b.Message = "method " + errs.Shortened(c.method, maxFault) + " is not allowed here; allowed: " + c.Header().Get("Allow")
	case http.StatusUnsupportedMediaType:
		b.Code = connect.CodeInvalidArgument.String()
		b.Message = "this content type is not supported: send application/json, application/proto, application/grpc or application/grpc-web"
		if c.isREST() {
			b.Message = "this content type or encoding is not supported: send application/json in UTF-8, as it is or in gzip"
		}
	case http.StatusHTTPVersionNotSupported:
		b.Code = connect.CodeUnimplemented.String()
		b.Message = "this call streams both ways and needs HTTP/2"
	case http.StatusInternalServerError:
		b.Message = "internal error: the log of the server has it under this request's id"
	default:
		if c.status < http.StatusInternalServerError {
			b.Code = connect.CodeInvalidArgument.String()
		}
		b.Message = strings.TrimSpace(string(c.failure))
	}
	c.beforeRPC(b)
	if code, ok := statusCodes[c.status]; ok && c.speaksConnect() {
		b.Code = code.String()
	}
	return b
}

// statusCodes are the codes that a Connect client derives from an HTTP status alone
// (https://connectrpc.com/docs/protocol/#http-to-error-code). The code in the body must be the same. Other callers, and the
// log, get a more precise one.
var statusCodes = map[int]connect.Code{
	http.StatusNotFound:             connect.CodeUnimplemented,
	http.StatusMethodNotAllowed:     connect.CodeUnknown,
	http.StatusUnsupportedMediaType: connect.CodeUnknown,
}

// speaksConnect reports whether the caller is a Connect client, as far as its headers show.
func (c *call) speaksConnect() bool {
	return c.noProtocol() || !c.isREST() && c.request.Header.Get("Connect-Protocol-Version") != ""
}

// noProtocol reports whether an RPC was called with a content type that belongs to no protocol.
func (c *call) noProtocol() bool { return c.status == http.StatusUnsupportedMediaType && !c.isREST() }

// fieldPattern finds the field that a protojson error is about.
var fieldPattern = regexp.MustCompile(`\bfield "?(?:[A-Za-z0-9_]+\.)*([A-Za-z0-9_]+)`)

// maxFault is the most bytes of a message about a request that does not parse: it may quote the whole request.
const maxFault = 1 << 10

// beforeRPC completes an error that occurred outside the interceptor: its details, and its part of the log line.
func (c *call) beforeRPC(b *body) {
	_ = c.code.UnmarshalText([]byte(b.Code)) // An unknown name leaves the code that follows from the HTTP status.
	if c.err == nil {
		c.err = errors.New(b.Message)
	}
	if fault := violation(b.Message); fault.GetField() != "" && c.code == connect.CodeInvalidArgument {
		b.add(pack(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{fault}}))
	}
	if !c.speaksConnect() { // Connect's own errors before an RPC have no details, so its clients look at the header.
		b.add(pack(&errdetails.RequestInfo{RequestId: c.id}))
		b.add(pack(errorInfo("", c.code)))
	}
}

// bodyOf returns the body of an error that has the form for clients.
func bodyOf(err error) *body {
	var wire *connect.Error
	if !errors.As(err, &wire) {
		wire = connect.NewError(connect.CodeUnknown, err)
	}
	b := &body{Code: wire.Code().String(), Message: wire.Message()}
	for _, d := range wire.Details() {
		b.add(&anypb.Any{TypeUrl: d.Type(), Value: d.Bytes()})
	}
	return b
}

func (b *body) add(d *anypb.Any) {
	debug, _ := protojson.Marshal(mustUnpack(d))
	b.Details = append(b.Details, detail{
		Type:  string(d.MessageName()),
		Value: base64.RawStdEncoding.EncodeToString(d.GetValue()),
		Debug: debug,
	})
}

// unknownProcedure answers a gRPC client in its own protocol.
func (c *call) unknownProcedure() {
	c.status, c.failure = 0, nil
	c.Header().Del("Content-Type")
	c.Header().Del("Content-Length")
	wire := connect.NewError(connect.CodeUnimplemented, errors.New("no such procedure: "+errs.Shortened(c.path, maxField)))
	c.code, c.err = wire.Code(), wire
	_ = connect.NewErrorWriter().Write(c, c.request, wire)
}

func (c *call) isGRPC() bool {
	return !c.isREST() && strings.HasPrefix(c.request.Header.Get("Content-Type"), "application/grpc")
}

func pack(m proto.Message) *anypb.Any {
	d, _ := anypb.New(m)
	return d
}

func mustUnpack(d *anypb.Any) proto.Message {
	if m, err := d.UnmarshalNew(); err == nil {
		return m
	}
	return &anypb.Any{} // A detail whose type is not linked has no readable form.
}
