package resource

import "plinth/internal/errs"

// Field is a field of a resource that clients may change.
type Field[T any] struct {
	Set  bool // it has a value in the request
	Copy func(*T)
}

// Change returns a function that copies the fields which an update_mask names; without a mask, those that are set. what is the
// name of the resource, for the error. Errors: InvalidArgument for a path that is no field.
func Change[T any](what string, mask []string, fields map[string]Field[T]) (func(*T), error) {
	for _, path := range mask {
		if _, ok := fields[path]; !ok {
			return nil, errs.New(errs.InvalidArgument, "update_mask: %.64q is no field of a %s that can be changed", path, what)
		}
	}
	if len(mask) == 0 {
		for name, field := range fields {
			if field.Set {
				mask = append(mask, name)
			}
		}
	}
	return func(to *T) {
		for _, path := range mask {
			fields[path].Copy(to)
		}
	}, nil
}
