package rest

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"plinth/internal/errs"
	"plinth/internal/rpc/wire"
)

// wrapped are the well-known messages that are written as one value, and whether that is the text of a JSON string.
var wrapped = map[protoreflect.FullName]bool{
	"google.protobuf.Timestamp":   true,
	"google.protobuf.Duration":    true,
	"google.protobuf.FieldMask":   true,
	"google.protobuf.BoolValue":   false,
	"google.protobuf.BytesValue":  false,
	"google.protobuf.DoubleValue": false,
	"google.protobuf.FloatValue":  false,
	"google.protobuf.Int32Value":  false,
	"google.protobuf.Int64Value":  false,
	"google.protobuf.StringValue": false,
	"google.protobuf.UInt32Value": false,
	"google.protobuf.UInt64Value": false,
}

// isScalar reports whether one value of a field is written as one text.
func isScalar(fd protoreflect.FieldDescriptor) bool {
	if fd.Message() == nil {
		return true
	}
	_, ok := wrapped[fd.Message().FullName()]
	return ok
}

func isMask(m protoreflect.MessageDescriptor) bool {
	return m != nil && m.FullName() == "google.protobuf.FieldMask"
}

// parse returns the value that a text of a path or query means for a field of m, or for one item of it. name is the field's
// path, for the error.
func parse(m protoreflect.Message, fd protoreflect.FieldDescriptor, text, name string) (v protoreflect.Value, err error) {
	if !utf8.ValidString(text) {
		return v, errs.New(errs.InvalidArgument, "%s: text in UTF-8 is allowed", name)
	}
	what := ""
	if fd.Message() == nil {
		v, what, err = parseScalar(fd, text)
	} else {
		whole := m.NewField(fd)
		if fd.IsList() {
			whole = whole.List().NewElement()
		}
		what, err = parseWrapped(whole.Message(), text)
		v = whole
	}
	if err != nil {
		return v, errs.New(errs.InvalidArgument, "%s: %.64q is not allowed; %s is", name, text, what)
	}
	return v, nil
}

func parseWrapped(m protoreflect.Message, text string) (what string, err error) {
	if mask, ok := m.Interface().(*fieldmaskpb.FieldMask); ok {
		for path := range strings.SplitSeq(text, ",") {
			if path != "" {
				mask.Paths = append(mask.Paths, snake(path))
			}
		}
		return "", nil
	}
	if !wrapped[m.Descriptor().FullName()] {
		fd := m.Descriptor().Fields().ByNumber(1)
		v, what, err := parseScalar(fd, text)
		if err == nil {
			m.Set(fd, v)
		}
		return what, err
	}
	return wire.Times[m.Descriptor().FullName()], protojson.Unmarshal(strconv.AppendQuote(nil, text), m.Interface())
}

// snake returns a path of a mask with the names of the proto, if it has those of JSON.
func snake(path string) string {
	var b strings.Builder
	for _, r := range path {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

var errValue = errors.New("not a value of the field")

// parseScalar reads what protojson reads. what is what would be allowed, for the error.
func parseScalar(fd protoreflect.FieldDescriptor, text string) (v protoreflect.Value, what string, err error) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), "", nil
	case protoreflect.BytesKind:
		data, err := parseBytes(text)
		return protoreflect.ValueOfBytes(data), "base64", err
	case protoreflect.BoolKind:
		if text != "true" && text != "false" {
			err = errValue
		}
		return protoreflect.ValueOfBool(text == "true"), "true or false", err
	case protoreflect.EnumKind:
		if known := fd.Enum().Values().ByName(protoreflect.Name(text)); known != nil {
			return protoreflect.ValueOfEnum(known.Number()), "", nil
		}
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), "one of " + names(fd.Enum()), err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), "a whole number of 32 bits", err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), "a whole number of 64 bits", err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), "a whole number of 32 bits that is not negative", err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), "a whole number of 64 bits that is not negative", err
	case protoreflect.FloatKind:
		n, err := parseFloat(text, 32)
		return protoreflect.ValueOfFloat32(float32(n)), "a number", err
	case protoreflect.DoubleKind:
		n, err := parseFloat(text, 64)
		return protoreflect.ValueOfFloat64(n), "a number", err
	default:
		return v, "another field", errValue // A group, which proto3 does not have.
	}
}

func parseFloat(text string, bits int) (float64, error) {
	switch text {
	case "NaN", "Infinity", "-Infinity":
	default:
		if strings.Trim(text, "0123456789+-.eE") != "" {
			return 0, errValue
		}
	}
	return strconv.ParseFloat(text, bits)
}

// parseBytes reads base64 with either alphabet, padded or not.
func parseBytes(text string) ([]byte, error) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if strings.ContainsAny(text, "\r\n") { // The decoder skips them.
		return nil, errValue
	}
	return base64.RawStdEncoding.DecodeString(text)
}

func names(e protoreflect.EnumDescriptor) string {
	var names []string
	for i := range e.Values().Len() {
		names = append(names, string(e.Values().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}
