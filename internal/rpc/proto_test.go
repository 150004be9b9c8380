package rpc_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"plinth/internal/rpc"
)

// A time that is given is one, also the first of all, which Go takes for none.
func TestTimeFromProto(t *testing.T) {
	t.Parallel()
	first := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		given *timestamppb.Timestamp
		want  time.Time
		fails bool
	}{
		{nil, time.Time{}, false},
		{timestamppb.New(first), first.Add(time.Microsecond), false},
		{timestamppb.New(first.Add(time.Hour)), first.Add(time.Hour), false},
		{timestamppb.New(first.Add(-1)), time.Time{}, true},
		{&timestamppb.Timestamp{Nanos: -1}, time.Time{}, true},
	} {
		if got, err := rpc.TimeFromProto("at", c.given); !got.Equal(c.want) || (err != nil) != c.fails {
			t.Errorf("%v is %v, %v", c.given, got, err)
		}
	}
}
