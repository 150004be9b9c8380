package cache

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// memo is what Remember keeps: what a loader returned, and when. In Redis it is a mark, until when it is fresh in 13 digits of
// milliseconds since 1970, the tag of its type, when it was loaded, how long that took, whether it is an absence, and the bytes.
type memo struct {
	tag        uint64
	loadedAt   time.Time
	freshUntil time.Time
	took       time.Duration
	absent     bool // the loader said that there is nothing; the body is its message
	body       []byte
}

const (
	memoMark = "\xc1\x02"
	memoHead = len(memoMark) + 13 + 8 + 8 + 4 + 1
)

func (m memo) encode() []byte {
	b := make([]byte, 0, memoHead+len(m.body))
	b = fmt.Appendf(b, "%s%013d", memoMark, m.freshUntil.UnixMilli())
	b = binary.BigEndian.AppendUint64(b, m.tag)
	b = binary.BigEndian.AppendUint64(b, uint64(m.loadedAt.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, uint32(min(m.took.Milliseconds(), 1<<31)))
	if m.absent {
		return append(append(b, 1), m.body...)
	}
	return append(append(b, 0), m.body...)
}

// decodeMemo returns nil for what is no memo of a tag.
func decodeMemo(text string, tag uint64) *memo {
	if len(text) < memoHead || !strings.HasPrefix(text, memoMark) {
		return nil
	}
	fresh, err := strconv.ParseInt(text[2:15], 10, 64)
	head := []byte(text[15:memoHead])
	if err != nil || binary.BigEndian.Uint64(head) != tag {
		return nil
	}
	return &memo{
		tag: tag, freshUntil: time.UnixMilli(fresh), loadedAt: time.UnixMilli(int64(binary.BigEndian.Uint64(head[8:]))),
		took: time.Duration(binary.BigEndian.Uint32(head[16:])) * time.Millisecond, absent: head[20] == 1, body: []byte(text[memoHead:]),
	}
}

// tagText returns the tag as it is in a memo.
func tagText(tag uint64) string { return string(binary.BigEndian.AppendUint64(nil, tag)) }

// encodeValue returns a value in the form that decodeValue reads: a proto message in its binary form, everything else as JSON.
func encodeValue(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return proto.Marshal(m)
	}
	return json.Marshal(v)
}

func decodeValue[T any](body []byte) (v T, err error) {
	if m, ok := any(v).(proto.Message); ok {
		m = m.ProtoReflect().Type().New().Interface()
		return m.(T), proto.Unmarshal(body, m)
	}
	return v, json.Unmarshal(body, &v)
}

// typeTags are those of the types that this process has used: it takes long to find one.
type typeTags struct{ all sync.Map }

// of returns the tag of a type: that of another shape is another one, so that a deploy does not read what it cannot. Proto
// messages are made to be read by other versions, so their name is enough.
func (t *typeTags) of(of reflect.Type) uint64 {
	if tag, known := t.all.Load(of); known {
		return tag.(uint64)
	}
	tag := tagOf(of)
	t.all.Store(of, tag)
	return tag
}

func tagOf(t reflect.Type) uint64 {
	h := fnv.New64a()
	if t.Implements(reflect.TypeFor[proto.Message]()) {
		_, _ = h.Write([]byte(t.String()))
		return h.Sum64()
	}
	var shape strings.Builder
	describe(&shape, t, map[reflect.Type]bool{})
	_, _ = h.Write([]byte(shape.String()))
	return h.Sum64()
}

// describe writes the shape of a type: what JSON writes depends on it.
func describe(to *strings.Builder, t reflect.Type, seen map[reflect.Type]bool) {
	to.WriteString(t.String())
	if seen[t] {
		return
	}
	seen[t] = true
	to.WriteString("{")
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() || f.Anonymous {
				to.WriteString(f.Name + " " + f.Tag.Get("json") + " ")
				describe(to, f.Type, seen)
				to.WriteString(";")
			}
		}
	case reflect.Map:
		describe(to, t.Key(), seen)
		to.WriteString(":")
		describe(to, t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		describe(to, t.Elem(), seen)
	default:
		to.WriteString(t.Kind().String())
	}
	to.WriteString("}")
}
