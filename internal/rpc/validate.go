package rpc

import (
	"errors"
	"regexp"
	"strings"

	validatepb "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"plinth/internal/errs"
	"plinth/internal/rpc/rest"
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
		if of := alternatives(message.ProtoReflect().Descriptor(), v.Proto.GetField().GetElements()); of != nil {
			text = "exactly one of " + strings.Join(of, ", ") + " must be set"
		}
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

// alternatives returns the fields of the oneof of a message that a path leads to, or nil if it leads to a field.
func alternatives(m protoreflect.MessageDescriptor, path []*validatepb.FieldPathElement) (fields []string) {
	if len(path) != 1 {
		return nil
	}
	if of := m.Oneofs().ByName(protoreflect.Name(path[0].GetFieldName())); of != nil {
		for i := range of.Fields().Len() {
			fields = append(fields, string(of.Fields().Get(i).Name()))
		}
	}
	return fields
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

// violation splits a message about a field into the field and the description. The field is empty for a message about none.
func violation(text string) *errdetails.BadRequest_FieldViolation {
	prefix := named.FindString(text)
	if m := fieldPattern.FindStringSubmatch(text); m != nil && strings.HasPrefix(text, rest.Unparsable) {
		return &errdetails.BadRequest_FieldViolation{Field: m[1], Description: text}
	}
	return &errdetails.BadRequest_FieldViolation{Field: strings.TrimSuffix(prefix, ": "), Description: strings.TrimPrefix(text, prefix)}
}

// invalidError is the error of a message that breaks the rules of its proto.
type invalidError struct {
	text   string
	detail *errdetails.BadRequest
}

func (e *invalidError) Error() string { return e.text }
