package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	conformancev1 "plinth/.buf/conformance/connectrpc/conformance/v1"
)

// service replies as its requests demand: the first message defines the reply. The rules are in the suite's proto.
type service struct {
	conformancev1.UnimplementedConformanceServiceHandler
}

type (
	payload     = conformancev1.ConformancePayload
	requestInfo = conformancev1.ConformancePayload_RequestInfo
)

func (service) Unary(ctx context.Context, req *conformancev1.UnaryRequest) (*conformancev1.UnaryResponse, error) {
	p, err := answer(ctx, req.GetResponseDefinition(), req)
	return &conformancev1.UnaryResponse{Payload: p}, err
}

func (service) IdempotentUnary(
	ctx context.Context, req *conformancev1.IdempotentUnaryRequest,
) (*conformancev1.IdempotentUnaryResponse, error) {
	p, err := answer(ctx, req.GetResponseDefinition(), req)
	return &conformancev1.IdempotentUnaryResponse{Payload: p}, err
}

func (service) ClientStream(
	ctx context.Context, stream *connect.ClientStream[conformancev1.ClientStreamRequest],
) (*conformancev1.ClientStreamResponse, error) {
	var requests []proto.Message
	var definition *conformancev1.UnaryResponseDefinition
	for stream.Receive() {
		if requests == nil {
			definition = stream.Msg().GetResponseDefinition()
		}
		requests = append(requests, stream.Msg())
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	p, err := answer(ctx, definition, requests...)
	return &conformancev1.ClientStreamResponse{Payload: p}, err
}

// answer returns the reply of a call that has one.
func answer(ctx context.Context, definition *conformancev1.UnaryResponseDefinition, requests ...proto.Message) (*payload, error) {
	info := inform(ctx, requests)
	setHeaders(ctx, definition)
	pause(definition.GetResponseDelayMs())
	if wanted := definition.GetError(); wanted != nil {
		return nil, fail(wanted, info)
	}
	return &payload{Data: definition.GetResponseData(), RequestInfo: info}, nil
}

func (service) ServerStream(
	ctx context.Context, req *conformancev1.ServerStreamRequest, stream *connect.ServerStream[conformancev1.ServerStreamResponse],
) error {
	r := replies{definition: req.GetResponseDefinition(), send: func(p *payload) error {
		if p == nil {
			return stream.Send(nil)
		}
		return stream.Send(&conformancev1.ServerStreamResponse{Payload: p})
	}}
	if err := r.begin(ctx); err != nil {
		return err
	}
	return r.finish(inform(ctx, []proto.Message{req}))
}

func (service) BidiStream(
	ctx context.Context, stream *connect.BidiStream[conformancev1.BidiStreamRequest, conformancev1.BidiStreamResponse],
) error {
	r := replies{send: func(p *payload) error {
		if p == nil {
			return stream.Send(nil)
		}
		return stream.Send(&conformancev1.BidiStreamResponse{Payload: p})
	}}
	var fullDuplex bool
	var requests []proto.Message // received since the last reply
	for first := true; ; first = false {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		requests = append(requests, req)
		if first {
			r.definition, fullDuplex = req.GetResponseDefinition(), req.GetFullDuplex()
		}
		if !fullDuplex {
			continue
		}
		if first {
			if err := r.begin(ctx); err != nil {
				return err
			}
		}
		if !r.more() {
			break
		}
		info := inform(ctx, requests)
		if !first {
			info = &requestInfo{Requests: info.GetRequests()}
		}
		if err := r.next(info); err != nil {
			return err
		}
		requests = nil
	}
	if !fullDuplex {
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	return r.finish(inform(ctx, requests))
}

// replies are the messages that a stream sends.
type replies struct {
	definition *conformancev1.StreamResponseDefinition
	send       func(*payload) error // send(nil) sends only the header
	sent       int
}

// begin sends the header, so that the client need not wait for it until the first message.
func (r *replies) begin(ctx context.Context) error {
	setHeaders(ctx, r.definition)
	if !r.more() {
		return nil // An error without a message before it may have to be sent with the header.
	}
	return r.send(nil)
}

func (r *replies) more() bool { return r.sent < len(r.definition.GetResponseData()) }

func (r *replies) next(info *requestInfo) error {
	pause(r.definition.GetResponseDelayMs())
	p := &payload{Data: r.definition.GetResponseData()[r.sent], RequestInfo: info}
	r.sent++
	return r.send(p)
}

// finish sends the remaining messages, with info in the first message of the stream, and ends as the definition says.
func (r *replies) finish(info *requestInfo) error {
	for r.more() {
		if r.sent > 0 {
			info = nil
		}
		if err := r.next(info); err != nil {
			return err
		}
	}
	if r.sent > 0 {
		info = nil
	}
	if wanted := r.definition.GetError(); wanted != nil {
		return fail(wanted, info)
	}
	return nil
}

// inform returns what was received of a call.
func inform(ctx context.Context, requests []proto.Message) *requestInfo {
	call, _ := connect.CallInfoForHandlerContext(ctx)
	info := &requestInfo{RequestHeaders: fromHTTP(call.RequestHeader())}
	for _, req := range requests {
		packed, _ := anypb.New(req) // It was just unpacked, so it cannot fail.
		info.Requests = append(info.Requests, packed)
	}
	if query := call.Peer().Query; len(query) > 0 {
		info.ConnectGetInfo = &conformancev1.ConformancePayload_ConnectGetInfo{QueryParams: fromHTTP(http.Header(query))}
	}
	// Every unary call has a deadline here, so the header shows whether the client set one.
	sent := call.RequestHeader().Get("Connect-Timeout-Ms") + call.RequestHeader().Get("Grpc-Timeout")
	if deadline, ok := ctx.Deadline(); ok && sent != "" {
		info.TimeoutMs = proto.Int64(time.Until(deadline).Milliseconds())
	}
	return info
}

func fromHTTP(h http.Header) (headers []*conformancev1.Header) {
	for name, values := range h {
		headers = append(headers, &conformancev1.Header{Name: name, Value: values})
	}
	return headers
}

func setHeaders(ctx context.Context, definition interface {
	GetResponseHeaders() []*conformancev1.Header
	GetResponseTrailers() []*conformancev1.Header
}) {
	call, _ := connect.CallInfoForHandlerContext(ctx)
	set := func(to http.Header, headers []*conformancev1.Header) {
		for _, h := range headers {
			for _, value := range h.GetValue() {
				to.Add(h.GetName(), value)
			}
		}
	}
	set(call.ResponseHeader(), definition.GetResponseHeaders())
	set(call.ResponseTrailer(), definition.GetResponseTrailers())
}

// pause ignores the deadline of the call: of a reply that is sent just when the client stops waiting, the suite might see
// only half.
func pause(milliseconds uint32) { time.Sleep(time.Duration(milliseconds) * time.Millisecond) }

// fail returns the error of a definition, with info, if it is not nil, among its details.
func fail(wanted *conformancev1.Error, info *requestInfo) error {
	err := connect.NewError(connect.Code(wanted.GetCode()), errors.New(wanted.GetMessage()))
	details := wanted.GetDetails()
	if info != nil {
		packed, _ := anypb.New(info)
		details = append(details, packed)
	}
	for _, d := range details {
		detail, packErr := connect.NewErrorDetail(d)
		if packErr != nil {
			return packErr
		}
		err.AddDetail(detail)
	}
	return err
}
