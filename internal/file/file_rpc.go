package file

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	filev1 "plinth/api/plinth/file/v1"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
	"plinth/internal/rpc"
)

// RPC implements FileService. If a method returns an error, Connect ignores its reply.
type RPC struct{ service *Service }

var _ filev1.FileServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC.
func NewRPC(service *Service) *RPC { return &RPC{service} }

func (r *RPC) GetFile(ctx context.Context, req *filev1.GetFileRequest) (*filev1.File, error) {
	f, err := r.service.GetFile(ctx, req.GetId())
	return fileToProto(f), err
}

func (r *RPC) ListFiles(ctx context.Context, req *filev1.ListFilesRequest) (*filev1.ListFilesResponse, error) {
	filter, err := filterFromProto(req)
	if err != nil {
		return nil, err
	}
	files, next, err := r.service.ListFiles(ctx, filter, int(req.GetPageSize()), req.GetPageToken())
	return &filev1.ListFilesResponse{Files: rpc.SliceToProto(files, fileToProto), NextPageToken: next}, err
}

func (r *RPC) ListFolders(ctx context.Context, req *filev1.ListFoldersRequest) (*filev1.ListFoldersResponse, error) {
	parent, err := ParseFolder(req.GetParent())
	if err != nil {
		return nil, err
	}
	folders, next, err := r.service.ListFolders(ctx, parent, int(req.GetPageSize()), req.GetPageToken())
	return &filev1.ListFoldersResponse{Folders: folders, NextPageToken: next}, err
}

func (r *RPC) UpdateFile(ctx context.Context, req *filev1.UpdateFileRequest) (*filev1.File, error) {
	expires, err := rpc.TimeFromProto("expire_time", req.GetExpireTime())
	if err != nil {
		return nil, err
	}
	change, err := resource.Change("file", req.GetUpdateMask().GetPaths(), map[string]resource.Field[File]{
		"attributes":  {Set: len(req.GetAttributes()) > 0, Copy: func(f *File) { f.Attributes = req.GetAttributes() }},
		"expire_time": {Set: req.GetExpireTime() != nil, Copy: func(f *File) { f.ExpiresAt = expires }},
		"filename":    {Set: req.GetFilename() != "", Copy: func(f *File) { f.Filename = req.GetFilename() }},
		"folder":      {Set: req.GetFolder() != "", Copy: func(f *File) { f.Folder = req.GetFolder() }},
	})
	if err != nil {
		return nil, err
	}
	f, err := r.service.UpdateFile(ctx, req.GetId(), change)
	return fileToProto(f), err
}

func (r *RPC) DeleteFile(ctx context.Context, req *filev1.DeleteFileRequest) (*filev1.DeleteFileResponse, error) {
	return &filev1.DeleteFileResponse{}, r.service.DeleteFile(ctx, req.GetId())
}

func (r *RPC) CopyFile(ctx context.Context, req *filev1.CopyFileRequest) (*filev1.File, error) {
	expires, err := rpc.TimeFromProto("expire_time", req.GetExpireTime())
	if err != nil {
		return nil, err
	}
	f, err := r.service.CopyFile(ctx, req.GetId(), Copy{
		Filename: req.GetFilename(), Folder: req.Folder, Attributes: req.GetAttributes(), ExpiresAt: expires, IdempotencyKey: req.GetIdempotencyKey(),
	})
	return fileToProto(f), err
}

func (r *RPC) InspectFile(ctx context.Context, req *filev1.InspectFileRequest) (*filev1.File, error) {
	f, err := r.service.InspectFile(ctx, req.GetId(), req.GetAccept(), req.GetReason())
	return fileToProto(f), err
}

func filterFromProto(req *filev1.ListFilesRequest) (f Filter, err error) {
	f = Filter{
		State: states[req.GetState()], ContentType: req.GetContentType(), NamePrefix: req.GetFilenamePrefix(),
		MinSize: req.GetMinSize(), MaxSize: req.GetMaxSize(), Attributes: map[string]string{},
	}
	if f.Folder, err = ParseFolder(req.GetFolder()); err != nil {
		return f, err
	}
	if f.From, err = rpc.TimeFromProto("start_time", req.GetStartTime()); err != nil {
		return f, err
	}
	if f.To, err = rpc.TimeFromProto("end_time", req.GetEndTime()); err != nil {
		return f, err
	}
	for _, text := range []string{f.NamePrefix, f.ContentType} {
		if !pg.IsText(text) {
			return f, errs.New(errs.InvalidArgument, "filename_prefix, content_type: U+0000 is not allowed")
		}
	}
	for _, attribute := range req.GetAttributes() {
		key, value, _ := strings.Cut(attribute, "=")
		if !pg.IsText(attribute) {
			return f, errs.New(errs.InvalidArgument, "attributes: U+0000 is not allowed")
		}
		f.Attributes[key] = value
	}
	return f, nil
}

var states = map[filev1.FileState]State{
	filev1.FileState_FILE_STATE_PENDING:   Pending,
	filev1.FileState_FILE_STATE_VERIFYING: Verifying,
	filev1.FileState_FILE_STATE_READY:     Ready,
	filev1.FileState_FILE_STATE_DELETING:  Deleting,
	filev1.FileState_FILE_STATE_FAILED:    Failed,
}

func stateToProto(s State) filev1.FileState {
	for p, state := range states {
		if state == s {
			return p
		}
	}
	return filev1.FileState_FILE_STATE_UNSPECIFIED
}

func fileToProto(f File) *filev1.File {
	return &filev1.File{
		Id: f.ID, Key: f.Key(), Url: "/api/v1/files/" + f.ID + "/content", Filename: f.Filename, Folder: f.Folder, Size: f.Size,
		ContentType: f.ContentType, DeclaredContentType: f.DeclaredType, Checksum: f.Checksum, State: stateToProto(f.State),
		Attributes: f.Attributes, CreateTime: timestamppb.New(f.CreatedAt), ExpireTime: rpc.TimeToProto(f.ExpiresAt), Failure: f.Failure,
		Duplicate: f.Duplicate,
	}
}
