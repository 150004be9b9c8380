// Package wire counts what a message holds before it is built. A few bytes on the wire can stand for a large object in memory:
// an entry of a list of messages takes two bytes, and two hundred once it is parsed.
//
// What is malformed is no error here, but for the names of enums, times and durations in JSON. The parser that runs afterwards says
// what is wrong, and it gets no further than the count did.
package wire

import (
	"strings"
	"sync"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"plinth/internal/errs"
)

// Bounds on one message. The largest batch of messages, with all the attributes that they may have, has 70,000 values.
const (
	maxValues = 100_000 // items of lists, entries of maps, messages in messages and, in JSON, members of objects
	maxDepth  = 100     // of messages in messages, or of JSON
)

// layout is what counting has to know of a message.
type layout struct {
	byNumber map[protowire.Number]*member
	byName   map[string]*member
}

// member is a field of a message.
type member struct {
	name    string
	most    int // items or entries that its rules allow; 0 means no limit
	repeats bool
	message *layout                     // nil if its values are no messages, or such as JSON has in another form
	enum    protoreflect.EnumDescriptor // nil if it is none
	time    protoreflect.FullName       // of a key of Times; empty if it is none
	isMap   bool
	exempt  bool // the rules of what is in it are for its items, each by itself
	size    int  // bytes of a packed value; 0 means a varint
	packs   bool
}

var layouts sync.Map // from the full names of messages

func layoutOf(m protoreflect.MessageDescriptor) *layout {
	if known, ok := layouts.Load(m.FullName()); ok {
		return known.(*layout)
	}
	built := build(m, map[protoreflect.FullName]*layout{})
	layouts.Store(m.FullName(), built)
	return built
}

// build returns the layout of a message and of those in it. A message may contain itself.
func build(m protoreflect.MessageDescriptor, known map[protoreflect.FullName]*layout) *layout {
	if l := known[m.FullName()]; l != nil {
		return l
	}
	l := &layout{map[protowire.Number]*member{}, map[string]*member{}}
	known[m.FullName()] = l
	for i := range m.Fields().Len() {
		fd := m.Fields().Get(i)
		f := &member{name: string(fd.Name()), repeats: fd.Cardinality() == protoreflect.Repeated, isMap: fd.IsMap()}
		if fd.Message() != nil {
			f.message = build(fd.Message(), known)
			if name := fd.Message().FullName(); Times[name] != "" {
				f.time = name
			}
		}
		if fd.Enum() != nil && fd.Enum().FullName() != "google.protobuf.NullValue" { // That is any JSON.
			f.enum = fd.Enum()
		}
		f.packs, f.size = packing(fd)
		rules, _ := proto.GetExtension(fd.Options(), validate.E_Field).(*validate.FieldRules)
		f.most = int(min(rules.GetRepeated().GetMaxItems(), maxValues))
		if f.isMap {
			f.most = int(min(rules.GetMap().GetMaxPairs(), maxValues))
		}
		f.exempt = rules.GetIgnore() == validate.Ignore_IGNORE_ALWAYS || rules.GetRepeated().GetItems().GetIgnore() == validate.Ignore_IGNORE_ALWAYS
		l.byNumber[fd.Number()], l.byName[f.name], l.byName[fd.JSONName()] = f, f, f
	}
	return l
}

// packing reports whether a field may be packed, and the bytes of each value: 0 for a varint.
func packing(fd protoreflect.FieldDescriptor) (packs bool, size int) {
	switch fd.Kind() {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		size = 4
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		size = 8
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind, protoreflect.GroupKind:
		return false, 0
	}
	return fd.IsList(), size
}

// count is what is left of the bounds.
type count struct{ values int }

func (c *count) add(n int) error {
	if c.values += n; c.values > maxValues {
		return errs.New(errs.InvalidArgument, "the request has more than %d values", maxValues)
	}
	return nil
}

// within returns an error for more items than a field may have.
func (f *member) within(items int, rules bool) error {
	if rules && f.most > 0 && items > f.most {
		return errs.New(errs.InvalidArgument, "%s: at most %d items are allowed", f.name, f.most)
	}
	return nil
}

// named returns an error for a text that is no name of the enum's values.
func (f *member) named(text string) error {
	values := f.enum.Values()
	if values.ByName(protoreflect.Name(text)) != nil {
		return nil
	}
	var names []string
	for i := range values.Len() {
		if values.Get(i).Number() != 0 { // It stands for a field that is not set.
			names = append(names, string(values.Get(i).Name()))
		}
	}
	return errs.New(errs.InvalidArgument, "%s: there is no %.64q; allowed: %s", f.name, text, strings.Join(names, ", "))
}

// Times are the messages that JSON has as a string of their own form, and what is allowed there.
var Times = map[protoreflect.FullName]string{
	"google.protobuf.Duration":  "a duration in seconds, such as 1.5s,",
	"google.protobuf.Timestamp": "a time as in RFC 3339, such as 2026-01-31T12:00:00Z,",
}

// timed returns an error for a JSON string, with its quotes, that is no value of the field's time or duration.
func (f *member) timed(text []byte) error {
	var m proto.Message = &durationpb.Duration{}
	if f.time == "google.protobuf.Timestamp" {
		m = &timestamppb.Timestamp{}
	}
	if protojson.Unmarshal(text, m) != nil {
		return errs.New(errs.InvalidArgument, "%s: %.64q is not allowed; %s is", f.name, unquote(text[1:len(text)-1]), Times[f.time])
	}
	return nil
}

func deep() error {
	return errs.New(errs.InvalidArgument, "the request has more than %d levels", maxDepth)
}
