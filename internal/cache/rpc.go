package cache

import (
	"context"
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
	wanted, err := wantedFromHeader(ctx)
	if err != nil {
		return nil, err
	}
	e, err := r.service.Get(ctx, key)
	if err == nil && !wanted(e.Version) {
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
	match, isMatch, err := tagsFromHeader(call, "If-Match")
	if err != nil {
		return Condition{}, err
	}
	noneMatch, isNoneMatch, err := tagsFromHeader(call, "If-None-Match")
	switch {
	case err != nil:
		return Condition{}, err
	case !isMatch && !isNoneMatch:
		return inMessage, nil
	case inMessage != Condition{} || isMatch && isNoneMatch:
		return Condition{}, errs.New(errs.InvalidArgument, "if_version: only one condition is allowed, here or in the header If-Match or If-None-Match")
	case isNoneMatch && !noneMatch.Any:
		return Condition{}, errs.New(errs.InvalidArgument, "If-None-Match: * is allowed where a value is set")
	case isNoneMatch:
		return IfAbsent(), nil
	case match.Any:
		return IfPresent(), nil
	}
	versions := make([]string, len(match.List))
	for i, tag := range match.List { // A weak one has no version of ours.
		versions[i] = strings.Trim(tag, `"`)
	}
	return IfVersion(versions...), nil
}

// wantedFromHeader returns a function that reports whether a value with a version is what the If-Match of a read asks for.
func wantedFromHeader(ctx context.Context) (func(version string) bool, error) {
	if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
		match, isMatch, err := tagsFromHeader(call, "If-Match")
		if isMatch || err != nil {
			return func(version string) bool { return match.Has(`"`+version+`"`, false) }, err
		}
	}
	return func(string) bool { return true }, nil
}

// tagsFromHeader returns the entity tags of a header, and whether the call has it.
func tagsFromHeader(call connect.CallInfo, name string) (tags rpc.Tags, is bool, err error) {
	lines := call.RequestHeader().Values(name)
	if len(lines) == 0 {
		return tags, false, nil
	}
	tags, ok := rpc.ParseTags(lines)
	if !ok {
		return tags, true, errs.New(errs.InvalidArgument, `%s: entity tags in quotes with commas between them, or * alone, are allowed`, name)
	}
	return tags, true, nil
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
