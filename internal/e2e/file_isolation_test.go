package e2e

import (
	"context"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	filev1 "plinth/api/plinth/file/v1"
)

// fileClient is a client of files.
func fileClient(p party) filev1.FileServiceClient {
	return filev1.NewFileServiceClient(p.http, p.url, p.options...)
}

// uploadFile uploads a file from a stream.
func uploadFile(ctx context.Context, c filev1.FileServiceClient, info *filev1.UploadInfo, chunks ...string) (*filev1.File, error) {
	stream, err := c.UploadFile(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&filev1.UploadFileRequest{Part: &filev1.UploadFileRequest_Info{Info: info}})
	for _, chunk := range chunks {
		if err == nil {
			err = stream.Send(&filev1.UploadFileRequest{Part: &filev1.UploadFileRequest_Chunk{Chunk: []byte(chunk)}})
		}
	}
	f, closed := stream.CloseAndReceive() // It has the reason, where Send fails.
	if closed != nil {
		return nil, closed
	}
	return f, err
}

// downloadFile returns the content of a file.
func downloadFile(ctx context.Context, c filev1.FileServiceClient, req *filev1.DownloadFileRequest) (content string, first *filev1.File, err error) {
	stream, err := c.DownloadFile(ctx, req)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		if f := stream.Msg().GetFile(); f != nil {
			first = f
		}
		content += string(stream.Msg().GetData())
	}
	return content, first, stream.Err()
}

// hiddenFiles is a file of acme's, in a folder whose name and with a key that both tenants use.
func hiddenFiles(t *testing.T, acme, other party) hidden {
	info := func(name string) *filev1.UploadInfo {
		return &filev1.UploadInfo{Filename: name, Folder: "shared", IdempotencyKey: "once"}
	}
	owner, mine := fileClient(acme), fileClient(other)
	file, err := uploadFile(t.Context(), owner, info("secret"), "hidden")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := uploadFile(t.Context(), mine, info("mine"), "mine"); err != nil || f.GetDuplicate() {
		t.Fatal(f, err)
	}
	id := file.GetId()
	directly := &filev1.CreateUploadUrlRequest{Filename: "direct", Size: proto.Int64(10), PartSize: 5 << 20, IdempotencyKey: "direct"}
	upload, err := owner.CreateUploadUrl(t.Context(), directly)
	if err != nil {
		t.Fatal(err)
	}
	direct := upload.GetId()
	tries := map[protoreflect.Name]func(*testing.T, filev1.FileServiceClient){
		"UploadFile": func(t *testing.T, c filev1.FileServiceClient) {
			if f, err := uploadFile(t.Context(), c, info("mine"), "mine"); err != nil || f.GetId() == id || !f.GetDuplicate() {
				t.Errorf("%v %v", f, err)
			}
		},
		"DownloadFile": func(t *testing.T, c filev1.FileServiceClient) {
			content, _, err := downloadFile(t.Context(), c, &filev1.DownloadFileRequest{Id: id})
			if wantCode(t, err, connect.CodeNotFound); content != "" {
				t.Errorf("it reads %q", content)
			}
		},
		"GetFile": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.GetFile(t.Context(), &filev1.GetFileRequest{Id: id})
			wantCode(t, err, connect.CodeNotFound)
		},
		"ListFiles": func(t *testing.T, c filev1.FileServiceClient) {
			res, err := c.ListFiles(t.Context(), &filev1.ListFilesRequest{Folder: "shared"})
			if err != nil || len(res.GetFiles()) != 1 || res.GetFiles()[0].GetFilename() != "mine" {
				t.Errorf("%v %v", res, err)
			}
		},
		"ListFolders": func(t *testing.T, c filev1.FileServiceClient) {
			if res, err := c.ListFolders(t.Context(), &filev1.ListFoldersRequest{}); err != nil || len(res.GetFolders()) != 1 {
				t.Errorf("%v %v", res, err)
			}
		},
		"UpdateFile": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.UpdateFile(t.Context(), &filev1.UpdateFileRequest{Id: id, Filename: "theirs"})
			wantCode(t, err, connect.CodeNotFound)
		},
		"DeleteFile": func(t *testing.T, c filev1.FileServiceClient) { // It says nothing of whether there is one.
			if _, err := c.DeleteFile(t.Context(), &filev1.DeleteFileRequest{Id: id}); err != nil {
				t.Error(err)
			}
		},
		"CopyFile": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.CopyFile(t.Context(), &filev1.CopyFileRequest{Id: id})
			wantCode(t, err, connect.CodeNotFound)
		},
		"CreateUploadUrl": func(t *testing.T, c filev1.FileServiceClient) {
			res, err := c.CreateUploadUrl(t.Context(), directly)
			if err != nil || res.GetId() == direct {
				t.Errorf("%v %v", res, err)
			}
		},
		"CreatePartUrls": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.CreatePartUrls(t.Context(), &filev1.CreatePartUrlsRequest{Id: direct, First: 1, Count: 1})
			wantCode(t, err, connect.CodeNotFound)
		},
		"CompleteUpload": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.CompleteUpload(t.Context(), &filev1.CompleteUploadRequest{Id: direct})
			wantCode(t, err, connect.CodeNotFound)
		},
		"AbortUpload": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.AbortUpload(t.Context(), &filev1.AbortUploadRequest{Id: direct})
			wantCode(t, err, connect.CodeNotFound)
		},
		"CreateDownloadUrl": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.CreateDownloadUrl(t.Context(), &filev1.CreateDownloadUrlRequest{Id: id})
			wantCode(t, err, connect.CodeNotFound)
		},
		"InspectFile": func(t *testing.T, c filev1.FileServiceClient) {
			_, err := c.InspectFile(t.Context(), &filev1.InspectFileRequest{Id: id})
			wantCode(t, err, connect.CodeNotFound)
		},
	}
	h := hidden{tries: map[protoreflect.Name]func(*testing.T, party){}}
	for name, try := range tries {
		h.tries[name] = func(t *testing.T, other party) {
			if name != "UploadFile" && name != "DownloadFile" || other.streams { // Neither has a REST route.
				try(t, fileClient(other))
			}
		}
	}
	h.state = func(t *testing.T) []proto.Message {
		t.Helper()
		list, err := owner.ListFiles(t.Context(), &filev1.ListFilesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		content, first, err := downloadFile(t.Context(), owner, &filev1.DownloadFileRequest{Id: id})
		if err != nil || content != "hidden" {
			t.Fatalf("%q %v", content, err)
		}
		return []proto.Message{list, first}
	}
	return h
}
