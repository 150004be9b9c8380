package rest

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"plinth/internal/errs"
)

// fillQuery sets the fields that the query names.
func (b *Binding) fillQuery(m protoreflect.Message, query string) error {
	if query == "" {
		return nil
	}
	values, err := ParseQuery(query)
	if err != nil {
		return err
	}
	given := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		p, known := find(m.Descriptor(), name)
		if !known {
			if err := misnamed(m.Descriptor(), name); err != nil {
				return err
			}
			continue
		}
		if err := b.mayQuery(p); err != nil {
			return err
		}
		if given[p.String()] {
			return errs.New(errs.InvalidArgument, "%s: the query has it by both of its names", p)
		}
		given[p.String()] = true
		if err := fillParameter(m, p, values[name]); err != nil {
			return err
		}
	}
	return nil
}

// ParseQuery returns the parameters of a query. Errors: InvalidArgument.
func ParseQuery(query string) (url.Values, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		err = errs.Wrap(err, errs.InvalidArgument, "the query does not parse: parameters are separated by &, and %% is followed by two hexadecimal digits")
	}
	return values, err
}

// mayQuery returns an error for a field that another part of the request binds.
func (b *Binding) mayQuery(p path) error {
	if b.whole || p[0] == b.body {
		return errs.New(errs.InvalidArgument, "%s: it belongs into the body, not into the query", p)
	}
	for _, bound := range b.vars {
		if n := min(len(bound), len(p)); slices.Equal(bound[:n], p[:n]) {
			return errs.New(errs.InvalidArgument, "%s: the path has it, the query must not", p)
		}
	}
	return nil
}

// misnamed returns an error for a parameter that cannot be the name of any field. Other unknown ones are ignored.
func misnamed(m protoreflect.MessageDescriptor, name string) error {
	names := strings.Split(name, ".")
	if slices.Contains(names, "") {
		return errs.New(errs.InvalidArgument, "the query has a parameter that no field can be called: %.64q", name)
	}
	for _, name := range names {
		fd := field(m, name)
		if fd == nil {
			return nil
		}
		if m = fd.Message(); m == nil || isScalar(fd) || fd.IsList() || fd.IsMap() {
			return errs.New(errs.InvalidArgument, "%s: the query cannot name a part of it", fd.Name())
		}
	}
	return nil
}

func fillParameter(m protoreflect.Message, p path, texts []string) error {
	for i, fd := range p {
		if other := alternative(m, fd); other != nil {
			return errs.New(errs.InvalidArgument, "%s: only one of it and %s may be set", p, other.Name())
		}
		if i < len(p)-1 {
			m = m.Mutable(fd).Message()
		}
	}
	fd := p[len(p)-1]
	switch {
	case fd.IsMap() || !isScalar(fd):
		return errs.New(errs.InvalidArgument, "%s: the query cannot have it as a whole", p)
	case fd.IsList():
		list := m.Mutable(fd).List()
		for _, text := range texts {
			value, err := parse(m, fd, text, p.String())
			if err != nil {
				return err
			}
			list.Append(value)
		}
		return nil
	case len(texts) > 1:
		return errs.New(errs.InvalidArgument, "%s: the query has it more than once", p)
	}
	value, err := parse(m, fd, texts[0], p.String())
	if err == nil {
		m.Set(fd, value)
	}
	return err
}

// alternative returns the field that is set already of those of which one may be.
func alternative(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.FieldDescriptor {
	oneof := fd.ContainingOneof()
	if oneof == nil || oneof.IsSynthetic() {
		return nil
	}
	if set := m.WhichOneof(oneof); set != nil && set != fd {
		return set
	}
	return nil
}

// find returns the path to a field by its name, with a dot between the names of messages and their fields. A name is that of
// the proto, or that of JSON.
func find(m protoreflect.MessageDescriptor, name string) (p path, found bool) {
	for more := true; more; {
		if len(p) > 0 {
			last := p[len(p)-1]
			if isScalar(last) || last.Cardinality() == protoreflect.Repeated {
				return nil, false
			}
			m = last.Message()
		}
		var first string
		first, name, more = strings.Cut(name, ".")
		fd := field(m, first)
		if fd == nil {
			return nil, false
		}
		p = append(p, fd)
	}
	return p, true
}

func field(m protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := m.Fields().ByName(protoreflect.Name(name)); fd != nil {
		return fd
	}
	return m.Fields().ByJSONName(name)
}
