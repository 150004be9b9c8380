package broker

import "strings"

// Turns has owners take turns at something that goes one by one: however much one of them adds, the others wait for one of
// its values at most. The zero value is empty. It is not safe for concurrent use.
type Turns[T any] struct {
	owners []string // those that have something, in the order of their turns
	values map[string][]T
}

// Add adds values of an owner, behind those that the owner added before.
func (t *Turns[T]) Add(owner string, values ...T) {
	if len(values) == 0 {
		return
	}
	if t.values == nil {
		t.values = map[string][]T{}
	}
	if len(t.values[owner]) == 0 {
		t.owners = append(t.owners, owner)
	}
	t.values[owner] = append(t.values[owner], values...)
}

// Next removes and returns the next value. ok is false if there is none.
func (t *Turns[T]) Next() (value T, ok bool) {
	if len(t.owners) == 0 {
		return value, false
	}
	owner := t.owners[0]
	values := t.values[owner]
	value = values[0]
	clear(values[:1]) // For the garbage collector.
	t.owners = t.owners[1:]
	if len(values) > 1 {
		t.values[owner], t.owners = values[1:], append(t.owners, owner)
	} else {
		delete(t.values, owner)
	}
	return value, true
}

// IsEmpty reports whether there is nothing.
func (t *Turns[T]) IsEmpty() bool { return len(t.owners) == 0 }

// Tenant returns the tenant of an address: what its name has before the first dot.
func (a Address) Tenant() string {
	tenant, _, _ := strings.Cut(a.Queue+a.Topic, ".") // One of them is empty.
	return tenant
}
