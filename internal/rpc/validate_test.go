package rpc_test

import (
	"testing"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/rpc"
)

// Of fields that exclude each other, the error names all.
func TestNoneOfAOneof(t *testing.T) {
	t.Parallel()
	want := "payload: exactly one of message, data must be set"
	if err := rpc.Validate(&messagev1.PublishRequest{Queue: "q"}); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
