package cache

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "plinth/api/plinth/cache/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// RPC implements CacheService. If a method returns an error, Connect ignores its reply.
type RPC struct{ service *Service }

var _ cachev1.CacheServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC.
func NewRPC(service *Service) *RPC { return &RPC{service} }

func (r *RPC) Get(ctx context.Context, req *cachev1.GetRequest) (*cachev1.Entry, error) {
	key, err := ParseKey(req.GetKey())
	if err != nil {
		return nil, err
	}
	e, err := r.service.Get(ctx, key)
	if err == nil && !isWanted(ctx, e.Version) {
		err = errCondition()
	}
	if err != nil {
		return nil, err
	}
	tag(ctx, e.Version)
	return entryToProto(e), nil
}

func (r *RPC) GetMany(ctx context.Context, req *cachev1.GetManyRequest) (*cachev1.GetManyResponse, error) {
	keys := make([]Key, len(req.GetKeys()))
	for i, key := range req.GetKeys() {
		var err error
		if keys[i], err = ParseKey(key); err != nil {
			return nil, err
		}
	}
	results, err := r.service.GetMany(ctx, keys)
	if err != nil {
		return nil, err
	}
	return &cachev1.GetManyResponse{Results: rpc.SliceToProto(results, func(result Result) *cachev1.GetResult {
		if result.Err != nil {
			return &cachev1.GetResult{Error: errorToProto(ctx, result.Err)}
		}
		return &cachev1.GetResult{Entry: entryToProto(result.Entry)}
	})}, nil
}

func (r *RPC) Set(ctx context.Context, req *cachev1.SetRequest) (*cachev1.SetResponse, error) {
	w, err := writeFromProto(req)
	if err == nil {
		w.If, err = conditionFromHeader(ctx, w.If)
	}
	if err != nil {
		return nil, err
	}
	stored, err := r.service.Set(ctx, w)
	if err != nil {
		return nil, err
	}
	tag(ctx, stored.Version)
	return &cachev1.SetResponse{Version: stored.Version, ExpireTime: timestamppb.New(stored.ExpiresAt)}, nil
}

// SetMany treats each value as a separate call, including its validation.
func (r *RPC) SetMany(ctx context.Context, req *cachev1.SetManyRequest) (*cachev1.SetManyResponse, error) {
	if err := noCondition(ctx); err != nil {
		return nil, err
	}
	results := make([]*cachev1.SetResult, len(req.GetEntries()))
	writes, places := make([]Write, 0, len(results)), make([]int, 0, len(results))
	for i, entry := range req.GetEntries() {
		w, err := checkedWrite(entry)
		if err != nil {
			results[i] = &cachev1.SetResult{Error: errorToProto(ctx, err)}
			continue
		}
		writes, places = append(writes, w), append(places, i)
	}
	if len(writes) == 0 {
		return &cachev1.SetManyResponse{Results: results}, nil
	}
	set, err := r.service.SetMany(ctx, writes)
	if err != nil {
		return nil, err
	}
	for n, result := range set {
		if result.Err != nil {
			results[places[n]] = &cachev1.SetResult{Error: errorToProto(ctx, result.Err)}
			continue
		}
		results[places[n]] = &cachev1.SetResult{Version: result.Version, ExpireTime: timestamppb.New(result.ExpiresAt)}
	}
	return &cachev1.SetManyResponse{Results: results}, nil
}

func (r *RPC) Delete(ctx context.Context, req *cachev1.DeleteRequest) (*cachev1.DeleteResponse, error) {
	key, err := ParseKey(req.GetKey())
	if err != nil {
		return nil, err
	}
	condition := Condition{}
	if v := req.GetIfVersion(); v != "" {
		condition = IfVersion(v)
	}
	if condition, err = conditionFromHeader(ctx, condition); err != nil {
		return nil, err
	}
	deleted, err := r.service.Delete(ctx, key, condition)
	return &cachev1.DeleteResponse{Deleted: deleted}, err
}

func (r *RPC) Increment(ctx context.Context, req *cachev1.IncrementRequest) (*cachev1.IncrementResponse, error) {
	key, err := ParseKey(req.GetKey())
	if err != nil {
		return nil, err
	}
	if err := noCondition(ctx); err != nil {
		return nil, err
	}
	delta := int64(1)
	if req.Delta != nil {
		delta = req.GetDelta()
	}
	sum, stored, err := r.service.Increment(ctx, key, delta, req.GetTtl().AsDuration())
	if err != nil {
		return nil, err
	}
	return &cachev1.IncrementResponse{Value: sum, Version: stored.Version, ExpireTime: timestamppb.New(stored.ExpiresAt)}, nil
}

func (r *RPC) Expire(ctx context.Context, req *cachev1.ExpireRequest) (*cachev1.ExpireResponse, error) {
	key, err := ParseKey(req.GetKey())
	if err != nil {
		return nil, err
	}
	if err := noCondition(ctx); err != nil {
		return nil, err
	}
	stored, err := r.service.Expire(ctx, key, req.GetTtl().AsDuration())
	if err != nil {
		return nil, err
	}
	return &cachev1.ExpireResponse{Version: stored.Version, ExpireTime: timestamppb.New(stored.ExpiresAt)}, nil
}

func checkedWrite(entry *cachev1.SetRequest) (Write, error) {
	if err := rpc.Validate(entry); err != nil {
		return Write{}, err
	}
	return writeFromProto(entry)
}

func writeFromProto(req *cachev1.SetRequest) (w Write, err error) {
	w.Value, w.TTL = req.GetValue(), req.GetTtl().AsDuration()
	switch absent, version := req.GetIfAbsent(), req.GetIfVersion(); {
	case absent && version != "":
		return w, errs.New(errs.InvalidArgument, "if_version: only one of if_absent and if_version can be set")
	case absent:
		w.If = IfAbsent()
	case version != "":
		w.If = IfVersion(version)
	}
	w.Key, err = ParseKey(req.GetKey())
	return w, err
}

// conditionFromHeader returns the condition of a change that is in its headers, If-Match or If-None-Match (RFC 9110, 13.1), or
// else the one that its message has.
func conditionFromHeader(ctx context.Context, inMessage Condition) (Condition, error) {
	call, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return inMessage, nil
	}
	inMatch, inNoneMatch := call.RequestHeader().Values("If-Match"), call.RequestHeader().Values("If-None-Match")
	match, noneMatch := tags(inMatch), tags(inNoneMatch)
	condition := Condition{}
	switch {
	case len(inMatch)+len(inNoneMatch) == 0:
		return inMessage, nil
	case len(inMatch) > 0 && len(match) == 0:
		return condition, errs.New(errs.InvalidArgument, "If-Match: it is empty; entity tags or * are allowed")
	case len(inNoneMatch) > 0 && len(noneMatch) == 0:
		return condition, errs.New(errs.InvalidArgument, "If-None-Match: it is empty; * is allowed where a value is set")
	case inMessage != Condition{} || len(match) > 0 && len(noneMatch) > 0:
		return condition, errs.New(errs.InvalidArgument, "if_version: only one condition is allowed, here or in the header If-Match or If-None-Match")
	case slices.Equal(noneMatch, []string{"*"}):
		condition = IfAbsent()
	case len(noneMatch) > 0:
		return condition, errs.New(errs.InvalidArgument, "If-None-Match: * is allowed where a value is set")
	case slices.Equal(match, []string{"*"}):
		condition = IfPresent()
	default:
		for i, tag := range match { // A weak one has no version of ours.
			match[i] = strings.Trim(tag, `"`)
		}
		condition = IfVersion(match...)
	}
	return condition, nil
}

// isWanted reports whether a value with this version is what the If-Match of a read asks for.
func isWanted(ctx context.Context, version string) bool {
	call, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok || len(call.RequestHeader().Values("If-Match")) == 0 {
		return true
	}
	match := tags(call.RequestHeader().Values("If-Match"))
	return slices.Contains(match, "*") || slices.Contains(match, `"`+version+`"`)
}

// noCondition refuses a condition in the headers of a change that takes none, which would be made whether it holds or not.
func noCondition(ctx context.Context) error {
	call, ok := connect.CallInfoForHandlerContext(ctx)
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if ok && len(call.RequestHeader().Values(name)) > 0 {
			return errs.New(errs.InvalidArgument, "%s: a condition is allowed where one value is set or deleted", name)
		}
	}
	return nil
}

// tags returns the entity tags of a header as they stand there: "*" in quotes is a tag like any other.
func tags(header []string) (tags []string) {
	for _, list := range header {
		for tag := range strings.SplitSeq(list, ",") {
			if tag = strings.TrimSpace(tag); tag != "" {
				tags = append(tags, tag)
			}
		}
	}
	return tags
}

// tag sends the version of a value as its entity tag.
func tag(ctx context.Context, version string) {
	if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
		call.ResponseHeader().Set("ETag", `"`+version+`"`)
	}
}

func entryToProto(e Entry) *cachev1.Entry {
	return &cachev1.Entry{Value: e.Value, Version: e.Version, ExpireTime: timestamppb.New(e.ExpiresAt)}
}

func errorToProto(ctx context.Context, err error) *cachev1.Error {
	code, message := rpc.PartError(ctx, err)
	return &cachev1.Error{Code: code, Message: message}
}
