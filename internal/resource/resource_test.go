package resource_test

import (
	"errors"
	"strings"
	"testing"

	"plinth/internal/errs"
	"plinth/internal/resource"
)

func TestPageSize(t *testing.T) {
	for asked, want := range map[int]int{-1: 100, 0: 100, 1: 1, 1000: 1000, 1001: 1000} {
		if got := resource.PageSize(asked); got != want {
			t.Errorf("PageSize(%d) = %d, want %d", asked, got, want)
		}
	}
}

func TestToken(t *testing.T) {
	list := resource.ListOf("letters", "acme", 1)
	short := func(position string) (string, error) {
		if len(position) < 10 {
			return position, nil
		}
		return "", errors.New("too long")
	}
	for _, want := range []string{"", "after", "\x00\xff"} {
		if got, err := resource.Position(list, list.Token(want), short); got != want || err != nil {
			t.Errorf("the position %q comes back as %q, %v", want, got, err)
		}
	}
	never := func(string) (string, error) { return "", errors.New("no position") }
	if got, err := resource.Position(list, "", never); got != "" || err != nil {
		t.Errorf("the first page begins at %q, %v", got, err)
	}
	token := list.Token("after")
	for _, other := range []resource.List{
		resource.ListOf("letters", "acme", 2), resource.ListOf("letters", "other", 1), resource.ListOf("letters acme", 1), resource.ListOf(),
	} {
		if _, err := resource.Position(other, token, short); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("another list takes the token: %v", err)
		}
	}
	for _, bad := range []string{"!", "AAAA", token[1:], token[:8], list.Token("too long a position")} {
		if _, err := resource.Position(list, bad, short); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "page_token") {
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
