package file

import (
	"context"

	filev1 "plinth/api/plinth/file/v1"
	"plinth/internal/rpc"
)

func (r *RPC) CreateUploadUrl(ctx context.Context, req *filev1.CreateUploadUrlRequest) (*filev1.CreateUploadUrlResponse, error) {
	expires, err := rpc.TimeFromProto("expire_time", req.GetExpireTime())
	if err != nil {
		return nil, err
	}
	d, err := r.service.CreateUploadUrl(ctx, Upload{
		Filename: req.GetFilename(), Folder: req.GetFolder(), DeclaredType: req.GetContentType(), Size: req.GetSize(),
		Checksum: req.GetChecksum(), Attributes: req.GetAttributes(), ExpiresAt: expires, IdempotencyKey: req.GetIdempotencyKey(),
	}, req.GetPartSize(), req.GetExpiresIn().AsDuration())
	return &filev1.CreateUploadUrlResponse{
		Id: d.ID, Url: d.Request.URL, Method: d.Request.Method, Headers: d.Request.Headers, ExpireTime: rpc.TimeToProto(d.Until),
		PartSize: d.PartSize, PartCount: int32(d.PartCount()), Duplicate: d.Duplicate,
	}, err
}

func (r *RPC) CreatePartUrls(ctx context.Context, req *filev1.CreatePartUrlsRequest) (*filev1.CreatePartUrlsResponse, error) {
	d, parts, err := r.service.CreatePartUrls(ctx, req.GetId(), int(req.GetFirst()), int(req.GetCount()))
	return &filev1.CreatePartUrlsResponse{Parts: rpc.SliceToProto(parts, partToProto), ExpireTime: rpc.TimeToProto(d.Until)}, err
}

func partToProto(p PartURL) *filev1.PartUrl {
	return &filev1.PartUrl{
		Number: int32(p.Number), Url: p.Request.URL, Method: p.Request.Method, Headers: p.Request.Headers, Offset: p.Offset, Size: p.Size,
	}
}

func (r *RPC) CompleteUpload(ctx context.Context, req *filev1.CompleteUploadRequest) (*filev1.File, error) {
	f, err := r.service.CompleteUpload(ctx, req.GetId())
	return fileToProto(f), err
}

func (r *RPC) AbortUpload(ctx context.Context, req *filev1.AbortUploadRequest) (*filev1.AbortUploadResponse, error) {
	return &filev1.AbortUploadResponse{}, r.service.AbortUpload(ctx, req.GetId())
}

func (r *RPC) CreateDownloadUrl(ctx context.Context, req *filev1.CreateDownloadUrlRequest) (*filev1.CreateDownloadUrlResponse, error) {
	request, until, err := r.service.CreateDownloadUrl(ctx, req.GetId(), req.GetDisposition(), req.GetFilename(), req.GetExpiresIn().AsDuration())
	return &filev1.CreateDownloadUrlResponse{Url: request.URL, ExpireTime: rpc.TimeToProto(until)}, err
}
