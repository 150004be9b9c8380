package e2e

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "plinth/api/plinth/cache/v1"
)

func (p party) cache() cachev1.CacheServiceClient {
	return cachev1.NewCacheServiceClient(p.http, p.url, p.options...)
}

// hiddenCache is a value of acme, whose key other uses, too.
func hiddenCache(t *testing.T, acme, _ party) hidden {
	const theirs, ours = "hidden", "our own"
	set, err := acme.cache().Set(t.Context(), &cachev1.SetRequest{Key: theirs, Value: []byte("7"), Ttl: durationpb.New(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return hidden{
		tries: map[protoreflect.Name]func(*testing.T, party){
			"Get": func(t *testing.T, other party) {
				_, err := other.cache().Get(t.Context(), &cachev1.GetRequest{Key: theirs})
				wantCode(t, err, connect.CodeNotFound)
			},
			"GetMany": func(t *testing.T, other party) {
				res, err := other.cache().GetMany(t.Context(), &cachev1.GetManyRequest{Keys: []string{theirs, theirs}})
				if err != nil {
					t.Fatal(err)
				}
				for _, result := range res.GetResults() {
					if result.GetEntry() != nil || result.GetError().GetCode() != "not_found" {
						t.Errorf("it sees %v", result)
					}
				}
			},
			"Set": func(t *testing.T, other party) {
				_, err := other.cache().Set(t.Context(), &cachev1.SetRequest{Key: theirs, IfVersion: set.GetVersion()})
				wantCode(t, err, connect.CodeFailedPrecondition)
			},
			"SetMany": func(t *testing.T, other party) {
				_, err := other.cache().SetMany(t.Context(), &cachev1.SetManyRequest{Entries: []*cachev1.SetRequest{{Key: ours, Value: []byte("x")}}})
				if err != nil {
					t.Error(err)
				}
			},
			"Delete": func(t *testing.T, other party) {
				res, err := other.cache().Delete(t.Context(), &cachev1.DeleteRequest{Key: theirs})
				if err != nil || res.GetDeleted() {
					t.Errorf("%v %v", res, err)
				}
			},
			"Increment": func(t *testing.T, other party) {
				res, err := other.cache().Increment(t.Context(), &cachev1.IncrementRequest{Key: theirs})
				if err != nil || res.GetValue() != 1 {
					t.Errorf("its own number: %v %v", res, err)
				}
				if _, err := other.cache().Delete(t.Context(), &cachev1.DeleteRequest{Key: theirs}); err != nil {
					t.Error(err)
				}
			},
			"Expire": func(t *testing.T, other party) {
				_, err := other.cache().Expire(t.Context(), &cachev1.ExpireRequest{Key: theirs, Ttl: durationpb.New(time.Second)})
				wantCode(t, err, connect.CodeNotFound)
			},
		},
		state: func(t *testing.T) []proto.Message {
			e, err := acme.cache().Get(t.Context(), &cachev1.GetRequest{Key: theirs})
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(e.GetExpireTime().AsTime()); left < 30*time.Minute {
				t.Errorf("it expires in %v", left)
			}
			e.ExpireTime = nil // It is by a clock that is read anew.
			return []proto.Message{e}
		},
	}
}
