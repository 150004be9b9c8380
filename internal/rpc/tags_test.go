package rpc_test

import (
	"slices"
	"testing"

	"plinth/internal/rpc"
)

func TestTags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header []string
		any    bool
		tags   []string // nil with any unset is no list
	}{
		{[]string{"*"}, true, nil},
		{[]string{" * ", "*"}, true, nil},
		{[]string{`"a"`}, false, []string{`"a"`}},
		{[]string{`W/"a" , "b",,`, `""`}, false, []string{`W/"a"`, `"b"`, `""`}},
		{[]string{`"a,b"`}, false, []string{`"a,b"`}},
		{[]string{`"x,a"`, `"*"`}, false, []string{`"x,a"`, `"*"`}},
		{header: nil}, {header: []string{""}}, {header: []string{" , "}},
		{header: []string{"a"}}, {header: []string{`"a`}}, {header: []string{`a"`}}, {header: []string{`"`}}, {header: []string{`'a'`}},
		{header: []string{`"a" "b"`}}, {header: []string{`"a"b`}}, {header: []string{`"a b"`}}, {header: []string{`w/"a"`}}, {header: []string{`W/a`}},
		{header: []string{`"a", b`}}, {header: []string{`*, "a"`}}, {header: []string{`"a"`, "*"}}, {header: []string{"**"}}, {header: []string{"W/*"}},
	} {
		got, ok := rpc.ParseTags(c.header)
		if want := c.any || c.tags != nil; ok != want || ok && (got.Any != c.any || !slices.Equal(got.List, c.tags)) {
			t.Errorf("%q: %+v %t", c.header, got, ok)
		}
	}
	list, _ := rpc.ParseTags([]string{`W/"a", "b"`})
	if list.Has(`"a"`, false) || !list.Has(`"a"`, true) || !list.Has(`"b"`, false) || list.Has("b", true) {
		t.Errorf("%+v", list)
	}
}
