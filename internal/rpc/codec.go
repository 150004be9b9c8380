package rpc

import (
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"plinth/internal/errs"
	"plinth/internal/rpc/rest"
	"plinth/internal/rpc/wire"
)

// codecs returns the options with which Connect reads and writes messages: in the two forms of protobuf, counted before they
// are built, and in gzip, which is unpacked no further than a message may be large.
func codecs() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCodec(binaryCodec{}),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		connect.WithCompression("gzip",
			func() connect.Decompressor { return &unpacker{} },
			func() connect.Compressor { return gzip.NewWriter(io.Discard) }),
	)
}

type binaryCodec struct{}

func (binaryCodec) Name() string { return "proto" }

func (binaryCodec) Marshal(message any) ([]byte, error) {
	return binaryCodec{}.MarshalAppend(nil, message)
}

func (binaryCodec) MarshalAppend(to []byte, message any) ([]byte, error) {
	m, err := protoOf(message)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(to, m)
}

func (binaryCodec) Unmarshal(data []byte, message any) error {
	m, err := protoOf(message)
	if err != nil {
		return err
	}
	if err := wire.CheckProto(m.ProtoReflect().Descriptor(), data); err != nil {
		return putFault(m, err)
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return putFault(m, rest.Unparsed(err))
	}
	return nil
}

type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (c jsonCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

func (jsonCodec) MarshalAppend(to []byte, message any) ([]byte, error) {
	m, err := protoOf(message)
	if err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{}.MarshalAppend(to, m)
}

// Unmarshal ignores unknown fields, so that clients may be newer than the server.
func (jsonCodec) Unmarshal(data []byte, message any) error {
	m, err := protoOf(message)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return putFault(m, errs.New(errs.InvalidArgument, "%san empty body is no JSON object", rest.Unparsable))
	}
	if err := wire.CheckJSON(m.ProtoReflect().Descriptor(), data); err != nil {
		return putFault(m, err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err != nil {
		return putFault(m, rest.Unparsed(err))
	}
	return nil
}

func protoOf(message any) (proto.Message, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no proto", message)
	}
	return m, nil
}

// unpacker reads gzip, up to the size limit of a message: the content may be a thousand times as large as what was sent. Its
// errors are Connect's, which are passed on as they are.
type unpacker struct {
	gzip.Reader
	left int
	err  error // of the header
}

// errTooLarge is the error of a message that is larger than MaxMessageBytes. The rest of it is not read.
var errTooLarge = errs.New(errs.ResourceExhausted, "the message is larger than %d bytes", MaxMessageBytes)

// errNoGzip is the error of what should be gzip.
var errNoGzip = errs.New(errs.InvalidArgument, "the body is no gzip, or not all of it")

// Reset makes u read r. What is wrong with its header is the error of the first Read.
func (u *unpacker) Reset(r io.Reader) error {
	u.left = MaxMessageBytes
	u.err = u.Reader.Reset(r)
	return nil
}

func (u *unpacker) Read(p []byte) (n int, err error) {
	if err = u.err; err == nil {
		n, err = u.Reader.Read(p)
	}
	var wire *connect.Error
	switch u.left -= n; {
	case u.left < 0:
		return 0, connect.NewError(connect.CodeResourceExhausted, errTooLarge)
	case err == nil, errors.Is(err, io.EOF), errors.As(err, &wire):
		return n, err
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(flate.CorruptInputError)):
		return n, connect.NewError(connect.CodeInvalidArgument, errNoGzip)
	}
	return n, err // of what is read from
}

// Close does nothing. That of a gzip.Reader panics if there never was a header.
func (u *unpacker) Close() error { return nil }
