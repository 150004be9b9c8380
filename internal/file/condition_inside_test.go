package file

import (
	"net/http"
	"testing"
	"time"
)

const (
	tag   = `"e3b0"`
	other = `"0000"`
)

var changed = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func head(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestConditions(t *testing.T) {
	t.Parallel()
	at, later, earlier := changed.Format(http.TimeFormat), changed.Add(time.Second).Format(http.TimeFormat), changed.Add(-time.Second).Format(http.TimeFormat)
	for _, test := range []struct {
		header http.Header
		want   int
	}{
		{head(), 0},
		{head("If-None-Match", tag), 304}, {head("If-None-Match", "W/"+tag), 304}, {head("If-None-Match", "*"), 304},
		{head("If-None-Match", other+", "+tag), 304}, {head("If-None-Match", other, "If-None-Match", tag), 304}, {head("If-None-Match", other), 0},
		{head("If-None-Match", "e3b0"), 0}, {head("If-None-Match", `"a,b", `+tag), 304},
		{head("If-None-Match", other, "If-Modified-Since", at), 0},
		{head("If-Modified-Since", at), 304}, {head("If-Modified-Since", later), 304}, {head("If-Modified-Since", earlier), 0}, {head("If-Modified-Since", "soon"), 0},
		{head("If-Match", tag), 0}, {head("If-Match", "*"), 0}, {head("If-Match", other), 412}, {head("If-Match", "W/"+tag), 412}, {head("If-Match", ""), 412},
		{head("If-Unmodified-Since", at), 0}, {head("If-Unmodified-Since", earlier), 412}, {head("If-Match", tag, "If-Unmodified-Since", earlier), 0},
	} {
		if got := condition(test.header, tag, changed); got != test.want {
			t.Errorf("%v: %d, want %d", test.header, got, test.want)
		}
	}
	for value, want := range map[string]bool{tag: true, other: false, "W/" + tag: false, at: true, later: false, earlier: false, "x": false} {
		if got := wantsPart(head("If-Range", value), tag, changed); got != want {
			t.Errorf("If-Range %s: %v", value, got)
		}
	}
	if !wantsPart(head(), tag, changed) {
		t.Error("without If-Range no range counts")
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	whole := byteRange{0, 10}
	for _, test := range []struct {
		header   string
		want     byteRange
		part, ok bool
	}{
		{"bytes=0-0", byteRange{0, 1}, true, true}, {"bytes=5-9", byteRange{5, 5}, true, true}, {"bytes=-5", byteRange{5, 5}, true, true},
		{"bytes=5-", byteRange{5, 5}, true, true}, {"bytes=0-99999", byteRange{0, 10}, true, true}, {"bytes=-99", byteRange{0, 10}, true, true},
		{"Bytes = 1-2", byteRange{1, 2}, true, true}, {"bytes=9-99999999999999999999999", byteRange{9, 1}, true, true},
		{"bytes=10-", byteRange{}, true, false}, {"bytes=-0", byteRange{10, 0}, true, false}, {"bytes=99999999999999999999999-", byteRange{}, true, false},
		{"bytes=0-1,3-4", whole, false, true}, {"bytes=5-4", whole, false, true}, {"bytes=a-b", whole, false, true}, {"lines=1-2", whole, false, true},
		{"bytes", whole, false, true}, {"bytes=", whole, false, true}, {"bytes=-", whole, false, true}, {"bytes=--1", whole, false, true}, {"bytes=+1-2", whole, false, true},
	} {
		got, part, ok := parseRange(test.header, 10)
		if got != test.want || part != test.part || ok != test.ok {
			t.Errorf("%s: %v %v %v, want %v %v %v", test.header, got, part, ok, test.want, test.part, test.ok)
		}
	}
	if got, part, ok := parseRange("bytes=0-5", 0); got.length != 0 || part || !ok {
		t.Errorf("of nothing: %v %v %v", got, part, ok)
	}
}
