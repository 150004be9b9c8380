package broker_test

import (
	"strings"
	"testing"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

func TestTurns(t *testing.T) {
	t.Parallel()
	var turns broker.Turns[string]
	turns.Add("a", "a1", "a2", "a3")
	turns.Add("b", "b1")
	turns.Add("c")
	var got []string
	for range 2 {
		value, _ := turns.Next()
		got = append(got, value)
	}
	turns.Add("c", "c1", "c2")
	turns.Add("a", "a4")
	for !turns.IsEmpty() {
		value, ok := turns.Next()
		if !ok {
			t.Fatal("it is not empty and has nothing")
		}
		got = append(got, value)
	}
	if want := "a1 b1 a2 c1 a3 c2 a4"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if _, ok := turns.Next(); ok {
		t.Error("an empty one has something")
	}
}

func TestSimplified(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"": "", "#": "#", "#.#": "#", "#.#.#.z": "#.z", "a.#.#.b": "a.#.b", "*.#": "*.#", "#.*": "*.#", "#.*.#.*": "*.*.#", "a.b": "a.b",
		"#.a.#.b.#": "#.a.#.b.#", "#.*.a": "*.#.a",
	} {
		if got := broker.Simplified(pattern); got != want {
			t.Errorf("%q becomes %q, want %q", pattern, got, want)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	t.Parallel()
	for pattern, ok := range map[string]bool{"#": true, "#.a.#": true, "#.a.#.b.#": false, "#.#.#": false, "*.*.*.*": true, "a.##": true} {
		if err := broker.CheckPattern(pattern); ok != (err == nil) || err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
