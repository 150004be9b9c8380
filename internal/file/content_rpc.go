package file

import (
	"context"
	"io"
	"math"

	"connectrpc.com/connect"

	filev1 "plinth/api/plinth/file/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// Uncompressed is the option of the service's handlers that keeps downloads from being compressed: most files are already, and
// the rest costs more than it saves.
func Uncompressed() connect.HandlerOption {
	return connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
		if spec.Procedure == filev1.FileServiceDownloadFileProcedure {
			return []connect.HandlerOption{connect.WithCompressMinBytes(math.MaxInt)}
		}
		return nil
	})
}

func (r *RPC) UploadFile(ctx context.Context, stream *connect.ClientStream[filev1.UploadFileRequest]) (*filev1.File, error) {
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, errInfoFirst
	}
	info := stream.Msg().GetInfo()
	if info == nil {
		return nil, errInfoFirst
	}
	expires, err := rpc.TimeFromProto("info.expire_time", info.GetExpireTime())
	if err != nil {
		return nil, err
	}
	u := Upload{
		Filename: info.GetFilename(), Folder: info.GetFolder(), DeclaredType: info.GetContentType(), Size: unknown,
		Checksum: info.GetChecksum(), Attributes: info.GetAttributes(), ExpiresAt: expires, IdempotencyKey: info.GetIdempotencyKey(),
	}
	if info.Size != nil {
		u.Size = info.GetSize()
	}
	f, err := r.service.UploadFile(ctx, u, &chunks{stream: stream, pace: rpc.PaceOf(ctx, r.service.limits.Stall)})
	return fileToProto(f), err
}

var errInfoFirst = errs.New(errs.InvalidArgument, "info: the first message of an upload has it, and no other")

// chunks reads the bytes of an upload.
type chunks struct {
	stream *connect.ClientStream[filev1.UploadFileRequest]
	pace   rpc.Pace
	left   []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		if !c.pace.Receive(c.stream.Receive) {
			if err := c.stream.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		if c.stream.Msg().GetInfo() != nil {
			return 0, errInfoFirst
		}
		c.left = c.stream.Msg().GetChunk()
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (r *RPC) DownloadFile(ctx context.Context, req *filev1.DownloadFileRequest, stream *connect.ServerStream[filev1.DownloadFileResponse]) error {
	f, err := r.service.Readable(ctx, req.GetId())
	if err != nil {
		return err
	}
	length, err := f.within(req.GetOffset(), req.GetLength())
	if err != nil {
		return err
	}
	first, pace := fileToProto(f), rpc.PaceOf(ctx, r.service.limits.Stall)
	err = r.service.DownloadFile(ctx, f, req.GetOffset(), length, func(chunk []byte) error {
		res := &filev1.DownloadFileResponse{File: first, Data: chunk}
		first = nil
		return pace.Send(func() error { return stream.Send(res) })
	})
	if err == nil && first != nil { // There were no bytes.
		err = stream.Send(&filev1.DownloadFileResponse{File: first})
	}
	return err
}
