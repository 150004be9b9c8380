package wire

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/reflect/protoreflect"

	"plinth/internal/errs"
)

// CheckJSON returns an error if a message, in JSON, holds more than is allowed, or an enum has a name that it does not know: the
// parser, which ignores what it does not know, would take the default in its place. Times and durations are checked as well, because
// the parser does not say which field is wrong. Errors: InvalidArgument.
func CheckJSON(m protoreflect.MessageDescriptor, data []byte) error {
	s := scanner{data: data}
	_, err := s.value(&member{message: layoutOf(m)}, true, 0)
	return err
}

// Keys returns the keys of a JSON object, in order, with those that come twice.
func Keys(data []byte) (keys []string) {
	s := scanner{data: data, each: func(key string) { keys = append(keys, key) }}
	_, _ = s.value(nil, false, 0) // It was counted before.
	return keys
}

// scanner walks through JSON without building it. It takes more than is JSON, never less.
type scanner struct {
	count
	data []byte
	at   int
	each func(key string) // is called for the keys of the outermost object; may be nil
}

// value skips a value of a field, which is nil if it is not known. ok is false where the text is malformed.
func (s *scanner) value(f *member, rules bool, depth int) (ok bool, err error) {
	if depth > maxDepth {
		return false, deep()
	}
	switch first := s.next(); {
	case first == 0:
		return false, nil
	case f != nil && f.time != "" && first != 'n' && first != '[':
		return s.timed(f)
	case first == '{':
		return s.object(f, rules, depth)
	case first == '[':
		return s.array(f, rules, depth)
	case first == '"':
		raw, ok := s.text()
		if ok && f != nil && f.enum != nil {
			err = f.named(unquote(raw))
		}
		return ok && err == nil, err
	}
	end := bytes.IndexAny(s.data[s.at:], ",]} \t\r\n")
	if end <= 0 {
		end = len(s.data) - s.at
	}
	s.at += end
	return true, nil
}

// timed skips a time or a duration, of which no other form than a string is one.
func (s *scanner) timed(f *member) (ok bool, err error) {
	begin := s.at
	if s.data[begin] != '"' {
		return false, errs.New(errs.InvalidArgument, "%s: %s is allowed", f.name, Times[f.time])
	}
	if _, ok := s.text(); !ok {
		return false, nil
	}
	err = f.timed(s.data[begin:s.at])
	return err == nil, err
}

func (s *scanner) object(f *member, rules bool, depth int) (ok bool, err error) {
	s.at++
	if s.take('}') {
		return true, nil
	}
	inner := rules && (f == nil || !f.exempt)
	for n := 1; ; n++ {
		if s.next() != '"' {
			return false, nil
		}
		key, ok := s.text()
		if !ok || !s.take(':') {
			return false, nil
		}
		if err := s.add(1); err != nil {
			return false, err
		}
		if depth == 0 && s.each != nil {
			s.each(unquote(key))
		}
		if f != nil && f.isMap {
			if err := f.within(n, rules); err != nil {
				return false, err
			}
		}
		if ok, err := s.value(s.member(f, key), inner, depth+1); !ok {
			return false, err
		}
		if s.take('}') {
			return true, nil
		}
		if !s.take(',') {
			return false, nil
		}
	}
}

// member returns what the value of a key is: a field of a message, or a value of a map. It returns nil if that is not known.
func (s *scanner) member(f *member, key []byte) *member {
	if f == nil || f.message == nil {
		return nil
	}
	if f.isMap {
		return f.message.byNumber[2]
	}
	if found := f.message.byName[string(key)]; found != nil {
		return found
	}
	return f.message.byName[unquote(key)]
}

func (s *scanner) array(f *member, rules bool, depth int) (ok bool, err error) {
	s.at++
	if s.take(']') {
		return true, nil
	}
	var item *member
	if f != nil {
		item = &member{name: f.name, message: f.message, enum: f.enum, time: f.time}
	}
	for n := 1; ; n++ {
		if err := s.add(1); err != nil {
			return false, err
		}
		if f != nil && f.repeats {
			if err := f.within(n, rules); err != nil {
				return false, err
			}
		}
		if ok, err := s.value(item, rules && (f == nil || !f.exempt), depth+1); !ok {
			return false, err
		}
		if s.take(']') {
			return true, nil
		}
		if !s.take(',') {
			return false, nil
		}
	}
}

// text skips a string and returns what is between its quotes, escapes and all.
func (s *scanner) text() (raw []byte, ok bool) {
	begin := s.at + 1
	for at := begin; at < len(s.data); {
		n := bytes.IndexAny(s.data[at:], `"\`)
		if n < 0 {
			break
		}
		if at += n; s.data[at] == '"' {
			s.at = at + 1
			return s.data[begin:at], true
		}
		at += 2
	}
	s.at = len(s.data)
	return nil, false
}

// next skips space and returns the byte that comes then, 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.data); s.at++ {
		switch s.data[s.at] {
		case ' ', '\t', '\r', '\n':
		default:
			return s.data[s.at]
		}
	}
	return 0
}

func (s *scanner) take(b byte) bool {
	if s.next() != b {
		return false
	}
	s.at++
	return true
}

// unquote returns the text of a string with its escapes resolved, as far as they are right.
func unquote(raw []byte) (text string) {
	if !bytes.Contains(raw, []byte(`\`)) {
		return string(raw)
	}
	quoted := append(append([]byte{'"'}, raw...), '"')
	_ = json.Unmarshal(quoted, &text)
	return text
}
