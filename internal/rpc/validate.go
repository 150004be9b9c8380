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

// Bounds of what is told of a message's faults, since a client chooses how many there are, and the keys of its maps.
const (
	maxViolations = 16
	maxField      = 200 // bytes
)

// validate is Validate for whatever a handler takes.
func (s *Stack) validate(message any) error {
	if m, ok := message.(proto.Message); ok {
		return s.Validate(m)
	}
	return nil
}

// Validate holds a message against the rules in its proto. An error names each field and what is allowed, in its text and
// as a google.rpc.BadRequest.
func (s *Stack) Validate(message proto.Message) error {
	err := s.validator.Validate(message)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return err // A rule that does not compile: a fault of ours.
	}
	bad := &errdetails.BadRequest{}
	var texts []string
	for _, v := range invalid.Violations[:min(len(invalid.Violations), maxViolations)] {
		field, text := protovalidate.FieldPathString(v.Proto.GetField()), v.Proto.GetMessage()
		told := violation(text)
		if field != "" {
			told = &errdetails.BadRequest_FieldViolation{Field: errs.Shortened(field, maxField), Description: text}
			text = told.Field + ": " + text
		}
		bad.FieldViolations = append(bad.FieldViolations, told)
		texts = append(texts, text)
	}
	return &invalidError{strings.Join(texts, "; "), bad}
}

// named is how every message about a field begins, in the protos and in the code.
var named = regexp.MustCompile(`^[a-z][a-z0-9_.\[\]]*: `)

// violation takes a message about a field apart.
func violation(text string) *errdetails.BadRequest_FieldViolation {
	prefix := named.FindString(text)
	return &errdetails.BadRequest_FieldViolation{Field: strings.TrimSuffix(prefix, ": "), Description: strings.TrimPrefix(text, prefix)}
}

// invalidError is a message that breaks the rules of its proto.
type invalidError struct {
	text   string
	detail *errdetails.BadRequest
}

func (e *invalidError) Error() string { return e.text }

// validatingConn validates each message of a stream as it comes in.
type validatingConn struct {
	connect.StreamingHandlerConn
	stack interceptor
}

func (c validatingConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return c.stack.validate(message)
}
