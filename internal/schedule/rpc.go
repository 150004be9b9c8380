package schedule

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	schedulev1 "plinth/api/plinth/schedule/v1"
)

// RPC implements ScheduleService. If a method returns an error, Connect ignores its reply.
type RPC struct{ service *Service }

var _ schedulev1.ScheduleServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC.
func NewRPC(service *Service) *RPC { return &RPC{service} }

// durationToProto returns nil, which is an unset field, for 0.
func durationToProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// structFromProto returns an object as JSON, nil for one that is not set.
func structFromProto(s *structpb.Struct) (json.RawMessage, error) {
	if s == nil {
		return nil, nil
	}
	return protojson.Marshal(s)
}

// structToProto returns nil for JSON that is no object, which nothing of ours is.
func structToProto(encoded json.RawMessage) *structpb.Struct {
	s := &structpb.Struct{}
	if len(encoded) == 0 || protojson.Unmarshal(encoded, s) != nil {
		return nil
	}
	return s
}
