package e2e

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	lockv1 "plinth/api/plinth/lock/v1"
)

func (p party) locks() lockv1.LockServiceClient {
	return lockv1.NewLockServiceClient(p.http, p.url, p.options...)
}

// hiddenLocks are locks of acme, which other takes by the same names and leases.
func hiddenLocks(t *testing.T, acme, _ party) hidden {
	names := []string{"hidden", "secret"}
	lease := uuid.NewString()
	for _, name := range names {
		_, err := acme.locks().Acquire(t.Context(), &lockv1.AcquireRequest{
			Name: name, Owner: "acme", LeaseId: lease, Ttl: durationpb.New(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	page, err := acme.locks().List(t.Context(), &lockv1.ListRequest{PageSize: 1})
	if err != nil || page.GetNextPageToken() == "" {
		t.Fatalf("%v %v", page, err)
	}
	return hidden{
		tries: map[protoreflect.Name]func(*testing.T, party){
			"Acquire": func(t *testing.T, other party) {
				l, err := other.locks().Acquire(t.Context(), &lockv1.AcquireRequest{Name: names[0], Owner: "other"})
				if err != nil {
					t.Fatalf("its own lock of that name: %v", err)
				}
				res, err := other.locks().Release(t.Context(), &lockv1.ReleaseRequest{Name: names[0], LeaseId: l.GetLeaseId()})
				if err != nil || !res.GetReleased() {
					t.Errorf("its own lock of that name: %v %v", res, err)
				}
			},
			"Renew": func(t *testing.T, other party) {
				_, err := other.locks().Renew(t.Context(), &lockv1.RenewRequest{Name: names[0], LeaseId: lease})
				wantCode(t, err, connect.CodeFailedPrecondition)
			},
			"Release": func(t *testing.T, other party) {
				res, err := other.locks().Release(t.Context(), &lockv1.ReleaseRequest{Name: names[0], LeaseId: lease})
				if err != nil || res.GetReleased() {
					t.Errorf("%v %v", res, err)
				}
			},
			"Get": func(t *testing.T, other party) {
				_, err := other.locks().Get(t.Context(), &lockv1.GetRequest{Name: names[1]})
				wantCode(t, err, connect.CodeNotFound)
			},
			"List": func(t *testing.T, other party) {
				res, err := other.locks().List(t.Context(), &lockv1.ListRequest{})
				if err != nil {
					t.Error(err)
				}
				for _, l := range res.GetLocks() {
					if l.GetOwner() == "acme" {
						t.Errorf("it sees %v", l)
					}
				}
				_, err = other.locks().List(t.Context(), &lockv1.ListRequest{PageSize: 1, PageToken: page.GetNextPageToken()})
				wantCode(t, err, connect.CodeInvalidArgument)
			},
			"ForceRelease": func(t *testing.T, other party) {
				_, err := other.locks().ForceRelease(t.Context(), &lockv1.ForceReleaseRequest{Name: names[0], Reason: "mine"})
				wantCode(t, err, connect.CodePermissionDenied)
			},
			"ListForcedReleases": func(t *testing.T, other party) {
				res, err := other.locks().ListForcedReleases(t.Context(), &lockv1.ListForcedReleasesRequest{})
				if err != nil || len(res.GetForcedReleases()) != 0 {
					t.Errorf("%v %v", res, err)
				}
			},
		},
		state: func(t *testing.T) []proto.Message {
			res, err := acme.locks().List(t.Context(), &lockv1.ListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return []proto.Message{res}
		},
	}
}
