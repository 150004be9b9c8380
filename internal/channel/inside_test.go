package channel

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"plinth/internal/errs"
)

func TestIDs(t *testing.T) {
	t.Parallel()
	last := ""
	for _, id := range []ID{{0, 1, 0}, {999, 1, 1}, {1000, 1 << 31, 5}, {1_790_000_000_123_456, 0xffffffff, tagMask}, {1_790_000_000_123_457, 3, 0}} {
		text := id.String()
		if got, err := ParseID("id", text); err != nil || got != id || text[14] != '7' || text[19] < '8' || text[19] > 'b' || text <= last {
			t.Errorf("%+v: %s, %+v, %v", id, text, got, err)
		}
		last = text
	}
	for _, text := range []string{
		"", "x", "0198c0de-0000-4000-8000-000000000000", "0198c0de-0000-7fff-8000-000000000000", "ffffffff-ffff-73e7-8000-000000000000",
		"0198c0de-0000-7000-0000-000000000000",
	} {
		if id, err := ParseID("after_id", text); !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "after_id: ") {
			t.Errorf("%q: %+v %v", text, id, err)
		}
	}
	for _, test := range []struct {
		a, b ID
		want int64
	}{{ID{1, 1, 5}, ID{9, 1, 9}, 3}, {ID{1, 1, 0}, ID{9, 1, 9}, 0}, {ID{1, 1, 5}, ID{9, 2, 9}, 0}, {ID{1, 1, counterMask}, ID{9, 1, 2}, 2}, {ID{1, 1, 5}, ID{9, 1, 1<<counterBits | 9}, 0}} {
		if got := test.a.numberAfter(test.b); got != test.want {
			t.Errorf("%+v to %+v: %d", test.a, test.b, got)
		}
	}
}

// The grammar is that of bindings; internal/message has the same cases.
func TestPatterns(t *testing.T) {
	t.Parallel()
	for pattern, names := range map[string]string{ // with ! before those that do not match
		"a": "a !b !a.b", "*": "a b !a.b", "#": "a a.b a.b.c", "a.*": "a.b !a !a.b.c", "a.#": "a a.b a.b.c !b", "#.c": "c a.c a.b.c !c.a",
		"a.#.c": "a.c a.b.c a.b.b.c !a !c !a.b", "*.b.*": "a.b.c !b !a.b !a.c.c", "#.b.#": "b a.b b.c a.b.c !a !a.c", "#.#": "a a.b", "*.#": "a a.b",
		"#.*": "a a.b", "a.#.b.#.c": "a.b.c a.x.b.y.c a.b.b.c.c !a.c !a.b", "#.a.*.b": "a.x.b a.a.x.b !a.b", "*.*": "a.b !a !a.b.c",
	} {
		p, err := ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(names) {
			name, not := strings.CutPrefix(name, "!")
			if p.matches(name) == not {
				t.Errorf("%s and %s", pattern, name)
			}
		}
	}
	for _, bad := range []string{"", ".", "a.", ".a", "a..b", "a*", "a.#b", "ä", "a b", strings.Repeat("x", 201)} {
		if _, err := ParsePattern(bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", ".", "a.", "a..b", "*", "a.#", "ä", "a b", "a\nb", strings.Repeat("x", 201)} {
		if _, err := ParseName(bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// No pattern takes long.
	p, err := ParsePattern(strings.Repeat("#.a.", 49) + "b")
	if err != nil {
		t.Fatal(err)
	}
	if p.matches(strings.Repeat("a.", 99) + "a") { // It would not end if the work were not bounded.
		t.Error("it matches")
	}
}

func TestForm(t *testing.T) {
	t.Parallel()
	for _, p := range []Publication{{}, {Text: true, Payload: []byte("t")}, {Payload: []byte("a b\n\x00"), Attributes: map[string]string{"k": "", "": "v", "x": strings.Repeat("y", 300)}}} {
		m, err := parsePublished("7 1000 900 3 800 a.b " + string(p.encode()))
		if err != nil || string(m.Payload) != string(p.Payload) || m.Text != p.Text || fmt.Sprint(m.Attributes) != fmt.Sprint(p.Attributes) && len(p.Attributes) > 0 ||
			m.ID != (ID{1000, 7, tagOf("a.b", 3)}) || m.Previous != (ID{800, 7, tagOf("a.b", 2)}) || m.before != 900 || m.Channel.name != "a.b" {
			t.Errorf("%+v: %+v %v", p, m, err)
		}
	}
	whole := string(Publication{Payload: []byte("x"), Attributes: map[string]string{"key": "value"}}.encode())
	for _, bad := range []string{"", "x", "7 1000 900 3 800 a.b", "7 1000 900 3 800 a.b ", "x 1000 900 3 800 a.b d\x00", "7 1000 900 -3 800 a.b d\x00", "7 1000 900 3 800 a.b x\x00",
		"7 1000 900 3 800 a.b d\xff\xff\xff\xff\xff\x01", "7 1000 900 3 800 a.b " + whole[:6]} {
		if m, err := parsePublished(bad); err == nil {
			t.Errorf("%q: %+v", bad, m)
		}
	}
}

// A message that pub/sub lost is noticed at the next one: what is kept begins anew, and streams read the history.
func TestFeedNoticesWhatIsMissing(t *testing.T) {
	t.Parallel()
	idle := &reader{wake: make(chan struct{}, 1), names: map[string]bool{"c": true}, epoch: 7}
	f := &feed{
		live: true, epoch: 7, readers: map[*reader]bool{idle: true}, names: map[string]map[*reader]bool{"c": {idle: true}},
		patterns: map[Pattern]map[*reader]bool{},
	}
	next := func(want ...int64) {
		t.Helper()
		messages, ok := f.next(idle, 10)
		if ok != (want != nil) || len(messages) != len(want) {
			t.Fatalf("got %d messages, %v; want %v", len(messages), ok, want)
		}
		for i, m := range messages {
			if m.ID.at != want[i] {
				t.Errorf("message %d is at %d, want %d", i, m.ID.at, want[i])
			}
		}
	}
	next([]int64{}...)
	for at := int64(1); at <= 3; at++ {
		f.published(fmt.Sprintf("7 %d %d %d 0 c d\x00", at, at-1, at))
	}
	f.published("7 3 2 3 0 c d\x00") // Once more.
	next(1, 2, 3)
	if idle.idle = true; idle.pos != 3 {
		t.Errorf("it is at %d", idle.pos)
	}
	f.published("7 4 3 1 0 other d\x00")
	f.published("7 6 5 1 0 other d\x00") // 5 is missing, and may be one of c.
	if idle.idle || idle.pos != 4 || f.start != 5 || len(f.recent) != 1 {
		t.Errorf("idle %v at %d, kept after %d: %d", idle.idle, idle.pos, f.start, len(f.recent))
	}
	next(nil...)
	idle.pos = 6
	next([]int64{}...)
	f.published("8 7 6 1 0 c d\x00") // Another epoch.
	next(nil...)
	f.live = false
	idle.epoch = 8
	next(nil...)
	for at := int64(8); at < 8+2*recentMost; at++ {
		f.published(fmt.Sprintf("8 %d %d %d 0 c d\x00", at, at-1, at))
	}
	if len(f.recent) != recentMost || f.start != f.recent[0].before {
		t.Errorf("%d messages are kept", len(f.recent))
	}
	for at := int64(10_000); at < 10_010; at++ {
		f.published(fmt.Sprintf("8 %d %d %d 0 c d\x00%s", at, at-1, at, strings.Repeat("x", recentBytes/4)))
	}
	if f.bytes > recentBytes || len(f.recent) != 3 {
		t.Errorf("%d bytes are kept, %d messages", f.bytes, len(f.recent))
	}
}

// A stream that resumes channels begins at the first of their places, and in an epoch of the past if one of them has such a place,
// whatever clocks have done since.
func TestBegin(t *testing.T) {
	t.Parallel()
	now := ID{at: 100, epoch: 2}
	for range 50 { // The places are in no order.
		for _, test := range []struct {
			sub    Subscription
			want   ID
			starts starts
		}{
			{Subscription{Channels: []Name{{"a"}}}, now, nil},
			{Subscription{Channels: []Name{{"a"}}, After: ID{50, 1, 7}}, ID{50, 1, 7}, nil},
			{
				Subscription{Channels: []Name{{"a"}, {"b"}}, AfterOf: map[string]ID{"a": {60, 2, 7}}},
				ID{at: 60, epoch: 2}, starts{"": now, "a": {60, 2, 7}, "b": now},
			},
			{
				Subscription{Channels: []Name{{"a"}, {"b"}, {"c"}}, AfterOf: map[string]ID{"a": {60, 1, 7}, "b": {50, 2, 7}}},
				ID{at: 50, epoch: 1}, starts{"": now, "a": {60, 1, 7}, "b": {50, 2, 7}, "c": now},
			},
			{
				Subscription{Channels: []Name{{"a"}}, After: ID{at: 60, epoch: 1}, AfterOf: map[string]ID{"a": {50, 2, 7}}},
				ID{at: 50, epoch: 1}, starts{"": {at: 60, epoch: 1}, "a": {50, 2, 7}},
			},
		} {
			if place, starts := test.sub.begin(now); place != test.want || !maps.Equal(starts, test.starts) {
				t.Errorf("%+v: %v %v", test.sub, place, starts)
			}
		}
	}
	all, st := starts{"": {70, 2, 0}, "a": {50, 1, 0}, "b": {90, 1, 0}, "c": {50, 2, 0}}, state{epoch: 2, began: 60}
	for name, want := range map[string]int64{"a": 50, "b": 60, "c": 50, "d": 70} {
		if got := all.of(name, st); got != want {
			t.Errorf("%s begins after %d, want %d", name, got, want)
		}
	}
	if got := starts(nil).of("a", st); got != 0 {
		t.Errorf("%d", got)
	}
}
