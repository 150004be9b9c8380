package rpc

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"plinth/internal/errs"
)

// SliceToProto converts the items of a slice with toProto.
func SliceToProto[T, P any](items []T, toProto func(T) P) []P {
	protos := make([]P, len(items))
	for i, item := range items {
		protos[i] = toProto(item)
	}
	return protos
}

// TimeToProto returns nil, which is an unset field, for the zero time.
func TimeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// TimeFromProto returns the zero time for nil, which is an unset field. field is its path, for the error. Errors:
// InvalidArgument for an invalid timestamp.
func TimeFromProto(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if t.CheckValid() != nil {
		return time.Time{}, errs.New(errs.InvalidArgument, "%s: a moment in the years 1 to 9999 is allowed", field)
	}
	if t := t.AsTime(); !t.IsZero() {
		return t, nil
	}
	return time.Time{}.Add(time.Microsecond), nil // The first moment of all would be none; the next one is as good.
}
