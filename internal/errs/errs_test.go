package errs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"plinth/internal/errs"
)

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want errs.Kind
	}{
		{errs.New(errs.NotFound, "no %s", "x"), errs.NotFound},
		{fmt.Errorf("around: %w", errs.New(errs.Aborted, "x")), errs.Aborted},
		{errs.Wrap(context.Canceled, errs.Unavailable, "away"), errs.Unavailable},
		{fmt.Errorf("query: %w", context.Canceled), errs.Canceled},
		{context.DeadlineExceeded, errs.DeadlineExceeded},
		{errors.New("unknown"), errs.Internal},
	} {
		if got := errs.KindOf(test.err); got != test.want {
			t.Errorf("KindOf(%v) = %d, want %d", test.err, got, test.want)
		}
	}
	if errs.Is(nil, errs.Internal) {
		t.Error("nil is of a kind")
	}
}

func TestCauseIsForTheLogOnly(t *testing.T) {
	cause := errors.New("password=secret")
	err := errs.Wrap(cause, errs.Unavailable, "the %s is away", "database")
	if err.Message != "the database is away" {
		t.Errorf("message %q", err.Message)
	}
	if err.Error() != "the database is away: password=secret" || !errors.Is(err, cause) {
		t.Errorf("the log does not get the cause: %q", err.Error())
	}
}

func TestShortened(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aé", 2, "a"}, {"aé", 3, "aé"}, {"世界", 5, "世"}, {"\x80\x80", 1, ""}, {"", 0, ""}} {
		if got := errs.Shortened(test.text, test.most); got != test.want {
			t.Errorf("%d of %q are %q, want %q", test.most, test.text, got, test.want)
		}
	}
}
