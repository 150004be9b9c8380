package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"plinth/internal/errs"
)

// Connect puts the error of a codec into a text of its own, which names Go types, and sends it before a unary call has reached
// the interceptor. The codecs therefore do not fail: they leave the fault in the message, and who receives the message takes it
// from there. The errors of a body that cannot be read are Connect's already, which it passes on as they are.

// faultField is the number of the unknown field of a message that has its fault, after one that has the seal.
const faultField = protowire.MaxValidNumber

// seal begins the unknown fields of a message that has a fault. No client knows it.
var seal = protowire.AppendBytes(protowire.AppendTag(nil, faultField, protowire.BytesType), []byte(rand.Text()))

// putFault makes err, which is an invalid argument, all that message has.
func putFault(message proto.Message, err error) error {
	proto.Reset(message)
	text := err.Error()
	var classified *errs.Error
	if errors.As(err, &classified) {
		text = classified.Message
	}
	field := protowire.AppendTag(bytes.Clone(seal), faultField, protowire.BytesType)
	message.ProtoReflect().SetUnknown(protowire.AppendString(field, text))
	return nil
}

// takeFault returns the error of a message that did not parse.
func takeFault(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return nil
	}
	field, faulty := bytes.CutPrefix(m.ProtoReflect().GetUnknown(), seal)
	if !faulty {
		return nil
	}
	_, _, n := protowire.ConsumeTag(field)
	text, _ := protowire.ConsumeBytes(field[n:])
	return errs.New(errs.InvalidArgument, "%s", text)
}

var (
	errIncomplete   = errs.New(errs.InvalidArgument, "the body is incomplete")
	errNoMessage    = errs.New(errs.Unimplemented, "the call has no message; one is allowed")
	errMessages     = errs.New(errs.Unimplemented, "the call has more than one message; one is allowed")
	errFlags        = errs.New(errs.InvalidArgument, "the prefix of a message has flags that mean nothing in a request")
	errNotAnnounced = errs.New(errs.InvalidArgument, "a message is compressed, and no header says how")
)

// framing are the codes of what is wrong with envelopes, whose errors have no details: so the protocols want it, and for some that
// they are internal. The log has them as what they are.
var framing = map[*errs.Error]connect.Code{
	errIncomplete: connect.CodeInvalidArgument, errNoMessage: connect.CodeUnimplemented, errMessages: connect.CodeUnimplemented,
	errFlags: connect.CodeInternal, errNotAnnounced: connect.CodeInternal,
}

// framed returns the error of an envelope in the form for clients, if it is one.
func framed(err error) error {
	var classified *errs.Error
	if errors.As(err, &classified) && framing[classified] != 0 {
		return connect.NewError(framing[classified], classified)
	}
	return err
}

// unreadable returns the error of a body that could not be read.
func unreadable(ctx context.Context, err error) error {
	var wire *connect.Error
	switch {
	case errors.As(err, &wire), errs.KindOf(err) != errs.Internal:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errIncomplete // Not around io.EOF, which would be the end of a stream.
	}
	return errs.Wrap(err, errs.Canceled, "the call was canceled")
}

// bare returns the error that Connect's has around it, if that says the same and no more: it has the form for clients once it is the outcome.
func bare(err error) error {
	var wire *connect.Error
	if !errors.As(err, &wire) || errors.Is(err, io.EOF) {
		return err
	}
	if inner := wire.Unwrap(); codes[errs.KindOf(inner)] == wire.Code() && !errors.As(framed(inner), &wire) {
		return inner
	}
	return err
}

// loggedCode returns the code of an outcome in the log.
func loggedCode(wire *connect.Error) connect.Code {
	var classified *errs.Error
	if errors.As(wire.Unwrap(), &classified) {
		return codes[classified.Kind]
	}
	return wire.Code()
}
