package wire

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// CheckProto returns an error if a message, in protobuf's binary form, holds more than is allowed. Errors: InvalidArgument.
func CheckProto(m protoreflect.MessageDescriptor, data []byte) error {
	c := &count{}
	return c.proto(layoutOf(m), data, true, 0)
}

// proto counts one message. rules reports whether the rules of its fields hold.
func (c *count) proto(l *layout, data []byte, rules bool, depth int) error {
	if depth > maxDepth {
		return deep()
	}
	var several map[protowire.Number]int // how many values fields had before
	var last protowire.Number
	items := 0 // of the last field: those of one field come together
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil
		}
		data = data[n:]
		n = protowire.ConsumeFieldValue(number, kind, data)
		if n < 0 {
			return nil
		}
		value := data[:n]
		data = data[n:]
		f := l.byNumber[number]
		if f == nil || !f.repeats && f.message == nil {
			continue
		}
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		added := 1
		if f.packs && kind == protowire.BytesType {
			added = packed(f, value)
		}
		if err := c.add(added); err != nil {
			return err
		}
		if number != last {
			if several == nil {
				several = map[protowire.Number]int{}
			}
			several[last] = items
			last, items = number, several[number]
		}
		if items += added; f.repeats {
			if err := f.within(items, rules); err != nil {
				return err
			}
		}
		if f.message != nil && kind == protowire.BytesType {
			if err := c.proto(f.message, value, rules && !f.exempt, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// packed returns the number of values in a packed field.
func packed(f *member, data []byte) (n int) {
	if f.size > 0 {
		return len(data) / f.size
	}
	for _, b := range data {
		if b < 0x80 { // the last byte of a varint
			n++
		}
	}
	return n
}
