package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Router finds what a method and a path mean. The zero Router has no routes.
type Router[T any] struct{ root node[T] }

// node is a place in the tree of templates, one segment below its parent.
type node[T any] struct {
	literals map[string]*node[T]
	any      *node[T] // one segment of any text
	rest     *node[T] // all segments that are left
	leaves   map[string]map[string]T
}

// Add adds a route. A template is `/segment/…:verb`, in which a segment is a literal, `{name}` for one that is not empty, or, at the
// end, `{name=**}` for all that is left. It returns the names of the variables, in order. Errors: a template that is none; a
// route that is there already.
func (r *Router[T]) Add(method, template string, value T) (vars []string, err error) {
	path, ok := strings.CutPrefix(template, "/")
	if !ok {
		return nil, fmt.Errorf("template %q: it must begin with /", template)
	}
	path, verb := splitVerb(path)
	at := &r.root
	for segments := split(path); len(segments) > 0; segments = segments[1:] {
		name, isVar := strings.CutPrefix(segments[0], "{")
		if !isVar {
			if strings.ContainsAny(segments[0], "{}*%") || segments[0] == "" {
				return nil, fmt.Errorf("template %q: the segment %q is not supported", template, segments[0])
			}
			if at.literals == nil {
				at.literals = map[string]*node[T]{}
			}
			at = child(at.literals[segments[0]], func(n *node[T]) { at.literals[segments[0]] = n })
			continue
		}
		name, closed := strings.CutSuffix(name, "}")
		name, rest := strings.CutSuffix(name, "=**")
		name = strings.TrimSuffix(name, "=*")
		if !closed || name == "" || strings.ContainsAny(name, "{}*=") || rest && (len(segments) > 1 || verb != "") {
			return nil, fmt.Errorf("template %q: the variable %q is not supported", template, segments[0])
		}
		vars = append(vars, name)
		if rest {
			at = child(at.rest, func(n *node[T]) { at.rest = n })
		} else {
			at = child(at.any, func(n *node[T]) { at.any = n })
		}
	}
	return vars, at.add(verb, method, value, template)
}

func child[T any](n *node[T], make func(*node[T])) *node[T] {
	if n == nil {
		n = &node[T]{}
		make(n)
	}
	return n
}

func (n *node[T]) add(verb, method string, value T, template string) error {
	if n.leaves == nil {
		n.leaves = map[string]map[string]T{}
	}
	if n.leaves[verb] == nil {
		n.leaves[verb] = map[string]T{}
	}
	if _, taken := n.leaves[verb][method]; taken {
		return fmt.Errorf("%s %s: there is another route for it", method, template)
	}
	n.leaves[verb][method] = value
	return nil
}

// Match returns the route of a request, and the values of its variables, decoded. path is escaped, as url.URL.EscapedPath
// returns it. A literal is preferred to a variable, a path with a verb to one that ends in a colon and a text, and HEAD is GET where
// it is no route of its own. Where there is no route, allow has the methods that the path has; it is empty for an unknown path.
func (r *Router[T]) Match(method, path string) (value T, vars []string, allow []string, ok bool) {
	path, ok = strings.CutPrefix(path, "/")
	if !ok {
		return value, nil, nil, false
	}
	s := search[T]{method: method}
	if whole, verb := splitVerb(path); verb != "" {
		s.verb = verb
		if s.walk(&r.root, split(whole)) {
			return s.value, s.vars, nil, true
		}
		s.verb = ""
	}
	if s.walk(&r.root, split(path)) {
		return s.value, s.vars, nil, true
	}
	slices.Sort(s.allow)
	return value, nil, slices.Compact(s.allow), false
}

// search is one Match on its way through the tree.
type search[T any] struct {
	method, verb string
	vars         []string
	allow        []string
	value        T
}

// walk reports whether the segments lead from n to a route of the method.
func (s *search[T]) walk(n *node[T], segments []string) bool {
	if len(segments) == 0 {
		return s.arrive(n)
	}
	text, valid := decode(segments[0])
	if !valid {
		return false
	}
	if next := n.literals[text]; next != nil && s.walk(next, segments[1:]) {
		return true
	}
	had := len(s.vars)
	if n.any != nil && text != "" {
		s.vars = append(s.vars, text)
		if s.walk(n.any, segments[1:]) {
			return true
		}
		s.vars = s.vars[:had]
	}
	if n.rest == nil {
		return false
	}
	all, valid := decode(strings.Join(segments, "/"))
	s.vars = append(s.vars, all)
	if valid && s.arrive(n.rest) {
		return true
	}
	s.vars = s.vars[:had]
	return false
}

func (s *search[T]) arrive(n *node[T]) bool {
	methods := n.leaves[s.verb]
	for method := range methods {
		s.allow = append(s.allow, method)
		if method == http.MethodGet {
			s.allow = append(s.allow, http.MethodHead)
		}
	}
	value, ok := methods[s.method]
	if !ok && s.method == http.MethodHead {
		value, ok = methods[http.MethodGet]
	}
	if ok {
		s.value = value
	}
	return ok
}

// splitVerb cuts the verb off a path. A verb follows the last colon of the last segment.
func splitVerb(path string) (whole, verb string) {
	colon := strings.LastIndexByte(path, ':')
	if colon < 0 || colon < strings.LastIndexAny(path, "/}") || colon == len(path)-1 {
		return path, ""
	}
	return path[:colon], path[colon+1:]
}

func split(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func decode(segment string) (text string, valid bool) {
	if !strings.Contains(segment, "%") {
		return segment, true
	}
	text, err := url.PathUnescape(segment)
	return text, err == nil
}
