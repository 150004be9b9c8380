package resource_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"plinth/internal/errs"
	"plinth/internal/resource"
)

// numbers is a list of the numbers up to n, whose positions are shorter than 10 bytes.
func numbers(n int, of ...any) resource.List[int, int] {
	return resource.List[int, int]{
		Of: of, Start: -1, Position: strconv.Itoa,
		Parse: func(text string) (int, error) {
			if len(text) > 9 {
				return 0, errors.New("too long")
			}
			return strconv.Atoi(text)
		},
		Select: resource.OneMore(func(after, limit int) (items []int, err error) {
			for i := after + 1; i < n && len(items) < limit; i++ {
				items = append(items, i)
			}
			return items, nil
		}),
	}
}

func TestPages(t *testing.T) {
	for _, test := range []struct {
		n, size int
		want    []int // sizes of the pages
	}{
		{0, 10, []int{0}}, {9, 10, []int{9}}, {10, 10, []int{10}}, {11, 10, []int{10, 1}}, {20, 10, []int{10, 10}}, {3, 1, []int{1, 1, 1}},
		{150, 0, []int{100, 50}}, {150, -1, []int{100, 50}}, {1001, 1001, []int{1000, 1}}, {1000, 5000, []int{1000}},
	} {
		var got []int
		seen := 0
		for token := ""; ; {
			items, next, err := numbers(test.n).Page(test.size, token)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range items {
				if item != seen {
					t.Fatalf("%d in pages of %d: %d follows %d", test.n, test.size, item, seen-1)
				}
				seen++
			}
			got = append(got, len(items))
			if token = next; token == "" {
				break
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%d in pages of %d: %v, want %v", test.n, test.size, got, test.want)
		}
	}
}

// A page that ends early, for its bytes, goes on after its last item.
func TestShortPage(t *testing.T) {
	list := numbers(9)
	list.Select = func(after, _ int) ([]int, bool, error) { return []int{after + 1, after + 2}, true, nil }
	_, next, err := list.Page(5, "")
	if err != nil {
		t.Fatal(err)
	}
	if items, _, err := list.Page(5, next); err != nil || !slices.Equal(items, []int{2, 3}) {
		t.Errorf("%v %v", items, err)
	}
}

func TestPageOfError(t *testing.T) {
	list := numbers(9)
	fault := errors.New("fault")
	list.Select = resource.OneMore(func(int, int) ([]int, error) { return nil, fault })
	if items, next, err := list.Page(5, ""); !errors.Is(err, fault) || len(items) > 0 || next != "" {
		t.Errorf("%v %q %v", items, next, err)
	}
}

func TestToken(t *testing.T) {
	list := numbers(9, "letters", "acme", 1)
	_, token, err := list.Page(5, "")
	if err != nil || token == "" {
		t.Fatal(token, err)
	}
	for _, of := range [][]any{{"letters", "acme", 2}, {"letters", "other", 1}, {"letters acme", 1}, {}} {
		if _, _, err := numbers(9, of...).Page(5, token); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%v takes the token: %v", of, err)
		}
	}
	long := list
	long.Position = func(int) string { return "1234567890" }
	_, tooLong, err := long.Page(5, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"!", "AAAA", token[1:], token[:8], tooLong} {
		if _, _, err := list.Page(5, bad); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestChange(t *testing.T) {
	type thing struct{ a, b, c int }
	fields := map[string]resource.Field[thing]{
		"a": {Set: true, Copy: func(t *thing) { t.a = 10 }},
		"b": {Set: false, Copy: func(t *thing) { t.b = 0 }},
		"c": {Set: true, Copy: func(t *thing) { t.c = 30 }},
	}
	for _, test := range []struct {
		mask []string
		want thing
	}{
		{nil, thing{10, 2, 30}},
		{[]string{"a", "b"}, thing{10, 0, 3}},
		{[]string{"c"}, thing{1, 2, 30}},
	} {
		change, err := resource.Change("thing", test.mask, fields)
		if err != nil {
			t.Fatal(err)
		}
		got := thing{1, 2, 3}
		if change(&got); got != test.want {
			t.Errorf("%v: %v, want %v", test.mask, got, test.want)
		}
	}
	_, err := resource.Change("thing", []string{"a", "d"}, fields)
	if !errs.Is(err, errs.InvalidArgument) || err.Error() != `update_mask: "d" is no field of a thing that can be changed` {
		t.Errorf("an unknown field: %v", err)
	}
}
