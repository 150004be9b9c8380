package lock

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockv1 "plinth/api/plinth/lock/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// RPC implements LockService. If a method returns an error, Connect ignores its reply.
type RPC struct{ service *Service }

var _ lockv1.LockServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC.
func NewRPC(service *Service) *RPC { return &RPC{service} }

func (r *RPC) Acquire(ctx context.Context, req *lockv1.AcquireRequest) (*lockv1.AcquireResponse, error) {
	name, id, err := leaseFromProto(req)
	if err != nil {
		return nil, err
	}
	lease, err := r.service.Acquire(ctx, Request{
		Name: name, TTL: req.GetTtl().AsDuration(), Wait: req.GetWait().AsDuration(), Owner: req.GetOwner(), LeaseID: id,
		Fast: req.GetFast(), Finishing: rpc.Finishing(ctx).Done(),
	})
	if err != nil {
		return nil, err
	}
	return &lockv1.AcquireResponse{
		LeaseId: lease.ID.String(), FencingToken: lease.Token, ExpireTime: timestamppb.New(lease.ExpiresAt), ValidFor: validFor(lease),
	}, nil
}

func (r *RPC) Renew(ctx context.Context, req *lockv1.RenewRequest) (*lockv1.RenewResponse, error) {
	name, id, err := leaseFromProto(req)
	if err != nil {
		return nil, err
	}
	lease, err := r.service.Renew(ctx, name, id, req.GetTtl().AsDuration(), req.GetFast())
	if err != nil {
		return nil, err
	}
	return &lockv1.RenewResponse{
		LeaseId: lease.ID.String(), FencingToken: lease.Token, ExpireTime: timestamppb.New(lease.ExpiresAt), ValidFor: validFor(lease),
	}, nil
}

func (r *RPC) Release(ctx context.Context, req *lockv1.ReleaseRequest) (*lockv1.ReleaseResponse, error) {
	name, id, err := leaseFromProto(req)
	if err != nil {
		return nil, err
	}
	released, err := r.service.Release(ctx, name, id, req.GetFast())
	return &lockv1.ReleaseResponse{Released: released}, err
}

func (r *RPC) Get(ctx context.Context, req *lockv1.GetRequest) (*lockv1.Lock, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	l, err := r.service.Get(ctx, name)
	return lockToProto(l), err
}

func (r *RPC) List(ctx context.Context, req *lockv1.ListRequest) (*lockv1.ListResponse, error) {
	locks, next, err := r.service.List(ctx, int(req.GetPageSize()), req.GetPageToken())
	return &lockv1.ListResponse{Locks: rpc.SliceToProto(locks, lockToProto), NextPageToken: next}, err
}

func (r *RPC) ForceRelease(ctx context.Context, req *lockv1.ForceReleaseRequest) (*lockv1.ForcedRelease, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	f, err := r.service.ForceRelease(ctx, name, req.GetReason())
	return forcedToProto(f), err
}

func (r *RPC) ListForcedReleases(ctx context.Context, req *lockv1.ListForcedReleasesRequest) (*lockv1.ListForcedReleasesResponse, error) {
	all, next, err := r.service.ListForcedReleases(ctx, int(req.GetPageSize()), req.GetPageToken())
	return &lockv1.ListForcedReleasesResponse{ForcedReleases: rpc.SliceToProto(all, forcedToProto), NextPageToken: next}, err
}

// leaseFromProto returns the lock and the lease that a request names; the zero UUID where it names none.
func leaseFromProto(req interface {
	GetName() string
	GetLeaseId() string
},
) (name Name, id uuid.UUID, err error) {
	if name, err = ParseName(req.GetName()); err != nil || req.GetLeaseId() == "" {
		return name, uuid.Nil, err
	}
	if id, err = uuid.Parse(req.GetLeaseId()); err != nil || id == uuid.Nil {
		return name, uuid.Nil, errs.New(errs.InvalidArgument, "lease_id: a UUID is allowed, but not the one of zeros")
	}
	return name, id, nil
}

func validFor(l Lease) *durationpb.Duration { return durationpb.New(max(time.Until(l.End), 0)) }

func lockToProto(l Lock) *lockv1.Lock {
	return &lockv1.Lock{
		Name: l.Name.String(), Holder: l.Holder, Owner: l.Owner, FencingToken: l.Token,
		AcquireTime: timestamppb.New(l.AcquiredAt), ExpireTime: timestamppb.New(l.ExpiresAt), Waiters: l.Waiters,
	}
}

func forcedToProto(f ForcedRelease) *lockv1.ForcedRelease {
	return &lockv1.ForcedRelease{
		Id: f.ID, Name: f.Name.String(), Holder: f.Holder, Owner: f.Owner, FencingToken: f.Token, Principal: f.Principal,
		Reason: f.Reason, ReleaseTime: timestamppb.New(f.ReleasedAt),
	}
}
