package wire_test

import (
	"bytes"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc/wire"
)

var (
	values = (&structpb.ListValue{}).ProtoReflect().Descriptor()
	file   = (&descriptorpb.FileDescriptorProto{}).ProtoReflect().Descriptor()
)

func TestCounts(t *testing.T) {
	for name, test := range map[string]struct {
		message protoreflect.MessageDescriptor
		json    string
		proto   []byte
		want    string // part of the error; empty for none
	}{
		"empty":           {file, `{}`, nil, ""},
		"many":            {file, `{"dependency":[` + strings.Repeat(`"",`, 99_998) + `""]}`, bytes.Repeat([]byte{0x1a, 0}, 100_000), ""},
		"too many":        {file, `{"dependency":[` + strings.Repeat(`"",`, 100_000) + `""]}`, bytes.Repeat([]byte{0x1a, 0}, 100_001), "100000 values"},
		"too many unseen": {file, `{"nope":[` + strings.Repeat(`0,`, 100_000) + `0]}`, nil, "100000 values"},
		"packed":          {file, `{}`, append([]byte{0x52, 0xa1, 0x8d, 0x06}, make([]byte, 100_001)...), "100000 values"},
		"deep":            {values, strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200), nested(200), "100 levels"},
		"malformed":       {file, `{"dependency":["a",}`, []byte{0x1a, 5}, ""},
		"space":           {file, " { \"dependency\" : [ \"\\\"]}\" , \"\" ] } ", nil, ""},
	} {
		for form, err := range map[string]error{"JSON": wire.CheckJSON(test.message, []byte(test.json)), "proto": wire.CheckProto(test.message, test.proto)} {
			want := test.want
			if form == "proto" && name == "too many unseen" || form == "JSON" && name == "packed" {
				want = ""
			}
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v, want %q", name, form, err, want)
			}
		}
	}
}

// nested returns a list in a list, and so on.
func nested(levels int) []byte {
	v := &structpb.Value{}
	for range levels {
		v = &structpb.Value{Kind: &structpb.Value_ListValue{ListValue: &structpb.ListValue{Values: []*structpb.Value{v}}}}
	}
	data, _ := proto.Marshal(&structpb.ListValue{Values: []*structpb.Value{v}})
	return data
}

// Counting takes no memory to speak of.
func TestCountingIsCheap(t *testing.T) {
	json := []byte(`{"messageType":[` + strings.Repeat("{},", 1<<20) + "{}]}")
	binary := bytes.Repeat([]byte{0x22, 0}, 1<<21)
	_ = wire.CheckProto(file, nil) // This builds the layout.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if wire.CheckJSON(file, json) == nil || wire.CheckProto(file, binary) == nil {
		t.Error("a million entries are allowed")
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("it took %d bytes", took)
	}
}

func TestUnknownEnumNames(t *testing.T) {
	for text, want := range map[string]string{
		`{"field":[{"type":"TYPE_BOOL"},{"type":8},{"type":"TYPE_BOO\u004c"},{"label":null}]}`: "",
		`{"field":[{"type":"TYPE_BOOL"},{"type":"BOOL"}]}`:                                     `type: there is no "BOOL"; allowed: TYPE_DOUBLE, `,
		`{"field":[{"label":""}]}`: `label: there is no ""; allowed: LABEL_OPTIONAL, `,
	} {
		err := wire.CheckJSON((&descriptorpb.DescriptorProto{}).ProtoReflect().Descriptor(), []byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	anything := (&structpb.Struct{}).ProtoReflect().Descriptor()
	if err := wire.CheckJSON(anything, []byte(`{"fields":{"nullValue":"x"},"null_value":"y"}`)); err != nil {
		t.Error("in a struct:", err)
	}
}

func TestTimes(t *testing.T) {
	const duration, time = "is not allowed; a duration in seconds, such as 1.5s, is", "is not allowed; a time as in RFC 3339, such as 2026-01-31T12:00:00Z, is"
	request := (&messagev1.PublishRequest{}).ProtoReflect().Descriptor()
	for text, want := range map[string]string{
		`{"delay":"1.5s","deliver_time":null}`:         "",
		`{"deliver_time":"2026-01-31T12:00:00\u005a"}`: "",
		`{"delay":`:                  "", // The parser says that it ends early.
		`{"delay":"`:                 "",
		`{"delay":"x"}`:              `delay: "x" ` + duration,
		`{"delay":"1h"}`:             `delay: "1h" ` + duration,
		`{"delay":""}`:               `delay: "" ` + duration,
		`{"delay":5}`:                "delay: a duration in seconds, such as 1.5s, is allowed",
		`{"delay":{"seconds":5}}`:    "delay: a duration in seconds, such as 1.5s, is allowed",
		`{"deliverTime":"tomorrow"}`: `deliver_time: "tomorrow" ` + time,
		`{"deliver_time":"2026-02-30T00:00:00Z"}`: `deliver_time: "2026-02-30T00:00:00Z" ` + time,
	} {
		err := wire.CheckJSON(request, []byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestKeys(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"b":{"c":2},"d":[{"e":3}]}`:      "a b d",
		"{\"\\u0061\":\"x\\\"y\", \"b\" : null}": "a b",
		`{"a":1,"a":2}`:                          "a a",
		`[]`:                                     "",
		`{"a"`:                                   "",
		``:                                       "",
	} {
		if got := strings.Join(wire.Keys([]byte(text)), " "); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// FuzzCheckJSON holds the scanner against protojson: what that takes must be counted to its end.
func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{`{"dependency":["a","b"],"options":{"x":1e5}}`, `{"a":[[[]]],"b":"\\"}`, `{"publicDependency":[1,2]}`, "{\"\\u0061\":-0}", ` [1,{"b":[2]}]`, `{"delay":`, `{"delay":"1s","deliverTime":null}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_ = wire.Keys([]byte(text))
		request := &messagev1.PublishRequest{}
		if err := wire.CheckJSON(request.ProtoReflect().Descriptor(), []byte(text)); err != nil && protojson.Unmarshal([]byte(text), request) == nil &&
			strings.Count(text, ":") < 50 {
			t.Errorf("%q: %v", text, err)
		}
		m := &structpb.Value{}
		if protojson.Unmarshal([]byte(text), m) != nil || strings.Count(text, "{")+strings.Count(text, "[") > 50 {
			return
		}
		// Behind a text that is walked through whole, too many values must be found.
		many := `[` + text + strings.Repeat(",0", 100_001) + `]`
		if wire.CheckJSON(values, []byte(many)) == nil {
			t.Errorf("the scanner does not reach the end of %s", strconv.Quote(text))
		}
	})
}
