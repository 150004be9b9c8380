package rest

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"plinth/internal/errs"
	"plinth/internal/rpc/wire"
)

// Rule is a REST route of an RPC, as its proto has it.
type Rule struct {
	Method, Template string
	body, response   string
}

// Rules returns the routes of an RPC: that of its google.api.http option, and its additional bindings.
func Rules(m protoreflect.MethodDescriptor) (rules []Rule, err error) {
	first, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if first == nil {
		return nil, nil
	}
	for _, r := range append([]*annotations.HttpRule{first}, first.GetAdditionalBindings()...) {
		rule := Rule{body: r.GetBody(), response: r.GetResponseBody()}
		switch p := r.GetPattern().(type) {
		case *annotations.HttpRule_Get:
			rule.Method, rule.Template = http.MethodGet, p.Get
		case *annotations.HttpRule_Put:
			rule.Method, rule.Template = http.MethodPut, p.Put
		case *annotations.HttpRule_Post:
			rule.Method, rule.Template = http.MethodPost, p.Post
		case *annotations.HttpRule_Delete:
			rule.Method, rule.Template = http.MethodDelete, p.Delete
		case *annotations.HttpRule_Patch:
			rule.Method, rule.Template = http.MethodPatch, p.Patch
		case *annotations.HttpRule_Custom:
			rule.Method, rule.Template = p.Custom.GetKind(), p.Custom.GetPath()
		default:
			return nil, fmt.Errorf("%s: a google.api.http rule without a pattern", m.FullName())
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// Binding is how the requests of a route become the message of its RPC, and its reply a body.
type Binding struct {
	vars     []path
	whole    bool                         // the body is the message
	body     protoreflect.FieldDescriptor // or it is this field of it
	response protoreflect.FieldDescriptor // the body of the reply; nil means all of it
	raw      bool                         // the body is the data of a google.api.HttpBody
	mask     protoreflect.FieldDescriptor // what a PATCH changes; nil if the route is none
}

// path leads to a field of a message, through messages in it.
type path []protoreflect.FieldDescriptor

func (p path) String() string {
	names := make([]string, len(p))
	for i, fd := range p {
		names[i] = string(fd.Name())
	}
	return strings.Join(names, ".")
}

// Bind returns the binding of a rule whose template has the variables vars.
func Bind(m protoreflect.MethodDescriptor, rule Rule, vars []string) (b *Binding, err error) {
	b = &Binding{whole: rule.body == "*"}
	for _, name := range vars {
		p, ok := find(m.Input(), name)
		if !ok || p[len(p)-1].Cardinality() == protoreflect.Repeated || !isScalar(p[len(p)-1]) {
			return nil, fmt.Errorf("%s: the variable %q is no single value of %s", m.FullName(), name, m.Input().FullName())
		}
		b.vars = append(b.vars, p)
	}
	if !b.whole && rule.body != "" {
		b.body, err = part(m.Input(), rule.body)
	}
	of := m.Input()
	if b.body != nil {
		of = b.body.Message()
	}
	b.raw = of.FullName() == "google.api.HttpBody"
	if rule.response != "" {
		var faulty error
		b.response, faulty = part(m.Output(), rule.response)
		err = errors.Join(err, faulty)
	}
	if mask := m.Input().Fields().ByName("update_mask"); rule.Method == http.MethodPatch && mask != nil && isMask(mask.Message()) {
		b.mask = mask
	}
	return b, err
}

// part returns the field that is a body.
func part(of protoreflect.MessageDescriptor, name string) (protoreflect.FieldDescriptor, error) {
	fd := of.Fields().ByName(protoreflect.Name(name))
	if fd == nil || fd.Message() == nil || fd.Cardinality() == protoreflect.Repeated {
		return nil, fmt.Errorf("%s: %q is no message that could be a body", of.FullName(), name)
	}
	return fd, nil
}

// Request is what a client sent.
type Request struct {
	Vars        []string // of the path, decoded, in the order of the template
	Query       string   // as it was sent
	Body        []byte
	ContentType string // of the body
}

// HasBody reports whether requests have a body.
func (b *Binding) HasBody() bool { return b.whole || b.body != nil }

// Raw reports whether the body is bytes of any type, in place of JSON.
func (b *Binding) Raw() bool { return b.raw }

// Fill makes m, which is empty, the message of a request.
func (b *Binding) Fill(m proto.Message, req Request) error {
	msg := m.ProtoReflect()
	if err := b.fillBody(msg, req); err != nil {
		return err
	}
	for i, p := range b.vars {
		if err := b.fillVar(msg, p, req.Vars[i]); err != nil {
			return err
		}
	}
	if err := b.fillQuery(msg, req.Query); err != nil {
		return err
	}
	return b.fillMask(msg, req.Body)
}

func (b *Binding) fillBody(m protoreflect.Message, req Request) error {
	if len(req.Body) == 0 {
		return nil
	}
	switch {
	case !b.HasBody():
		return errs.New(errs.InvalidArgument, "this method takes no body")
	case b.body != nil:
		m = m.Mutable(b.body).Message()
	}
	if raw, ok := m.Interface().(*httpbody.HttpBody); ok {
		raw.ContentType, raw.Data = req.ContentType, append([]byte(nil), req.Body...)
		return nil
	}
	if err := wire.CheckJSON(m.Descriptor(), req.Body); err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(req.Body, m.Interface()); err != nil {
		return Unparsed(err)
	}
	return nil
}

// Unparsable is what the error of a body begins with that does not parse.
const Unparsable = "the request does not parse: "

// Unparsed returns the error for a message that protobuf refuses, in JSON or in binary.
func Unparsed(err error) error {
	// The prefix has a no-break space now and then, which discourages relying on it.
	text := library.Replace(strings.ReplaceAll(err.Error(), "\u00a0", " "))
	text = second.ReplaceAllString(fullName.ReplaceAllString(text, "$1$2"), `field "$1": another one of the fields that exclude each other is set already`)
	return errs.Wrap(err, errs.InvalidArgument, "%s%s", Unparsable, errs.Shortened(text, maxText))
}

// library replaces what only a library says.
var library = strings.NewReplacer("proto: ", "", "unexpected EOF", "it ends early")

// fullName matches the name of a field or type with its package, of which callers of JSON know nothing, and what is quoted, which is theirs.
var fullName = regexp.MustCompile(`("(?:[^"\\]|\\.)*")|\b[a-z_](?:[a-z0-9_]*\.)+(?:[A-Z]\w*\.)*(\w+)`)

// second matches what protojson says of the second field of a oneof.
var second = regexp.MustCompile(`error parsing "(\w+)", oneof \w+ is already set`)

// maxText is the most bytes of a request that an error repeats.
const maxText = 1 << 10

func (b *Binding) fillVar(m protoreflect.Message, p path, text string) error {
	for _, fd := range p[:len(p)-1] {
		m = m.Mutable(fd).Message()
	}
	fd := p[len(p)-1]
	value, err := parse(m, fd, text, p.String())
	if err != nil {
		return err
	}
	if m.Has(fd) && !m.Get(fd).Equal(value) {
		return errs.New(errs.InvalidArgument, "%s: the body has another value than the path", p)
	}
	m.Set(fd, value)
	return nil
}

// fillMask lists what the body has, where the client did not.
func (b *Binding) fillMask(m protoreflect.Message, body []byte) error {
	if b.mask == nil {
		return nil
	}
	resource := m.Descriptor()
	if b.body != nil {
		resource = b.body.Message()
	}
	mask, ok := m.Mutable(b.mask).Message().Interface().(*fieldmaskpb.FieldMask)
	if !ok || len(mask.GetPaths()) > 0 {
		return nil
	}
	for _, key := range wire.Keys(body) {
		fd := field(resource, key)
		if fd == nil || fd == b.mask || b.whole && b.isVar(fd) {
			continue
		}
		mask.Paths = append(mask.Paths, string(fd.Name()))
	}
	return nil
}

func (b *Binding) isVar(fd protoreflect.FieldDescriptor) bool {
	for _, p := range b.vars {
		if p[0] == fd {
			return true
		}
	}
	return false
}

// Reply returns the message that is the body of a reply, and its content type. The data of a google.api.HttpBody is sent as
// it is, any other message as JSON.
func (b *Binding) Reply(m proto.Message) (body proto.Message, contentType string) {
	if b.response != nil {
		m = m.ProtoReflect().Get(b.response).Message().Interface()
	}
	if raw, ok := m.(*httpbody.HttpBody); ok {
		return m, cmp.Or(raw.GetContentType(), "application/octet-stream")
	}
	return m, "application/json"
}
