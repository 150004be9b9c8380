package rpc

import (
	"errors"
	"regexp"
	"strings"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"plinth/internal/errs"
)

// Bounds on the error of a message, because a client controls the number of violations and the keys of maps.
const (
	maxViolations = 16
	maxField      = 200 // bytes
)

// Validate checks a message against the rules in its proto. An error names each field and what is allowed, in its text and
// as a google.rpc.BadRequest.
//
// Requests and messages of streams are already valid when they reach a handler. Validate is for handlers that treat a part
// of a request as a call of its own.
func Validate(message proto.Message) error {
	err := protovalidate.Validate(message)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return err // A rule that does not compile is a fault of ours.
	}
	bad := &errdetails.BadRequest{}
	var texts []string
	for _, v := range invalid.Violations[:min(len(invalid.Violations), maxViolations)] {
		field, text := protovalidate.FieldPathString(v.Proto.GetField()), v.Proto.GetMessage()
		fault := violation(text)
		if field != "" {
			fault = &errdetails.BadRequest_FieldViolation{Field: errs.Shortened(field, maxField), Description: text}
			text = fault.Field + ": " + text
		}
		bad.FieldViolations = append(bad.FieldViolations, fault)
		texts = append(texts, text)
	}
	return &invalidError{strings.Join(texts, "; "), bad}
}

// validate is Validate for any type that a handler accepts.
func validate(message any) error {
	if m, ok := message.(proto.Message); ok {
		return Validate(m)
	}
	return nil
}

// named matches the beginning of every message about a field, in the protos and in the code.
var named = regexp.MustCompile(`^[a-z][a-z0-9_.\[\]]*: `)

// violation splits a message about a field into the field and the description.
func violation(text string) *errdetails.BadRequest_FieldViolation {
	prefix := named.FindString(text)
	return &errdetails.BadRequest_FieldViolation{Field: strings.TrimSuffix(prefix, ": "), Description: strings.TrimPrefix(text, prefix)}
}

// invalidError is the error of a message that breaks the rules of its proto.
type invalidError struct {
	text   string
	detail *errdetails.BadRequest
}

func (e *invalidError) Error() string { return e.text }

// validatingConn validates each message of a stream when it is received.
type validatingConn struct{ connect.StreamingHandlerConn }

func (c validatingConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return validate(message)
}
