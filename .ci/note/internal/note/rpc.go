package note

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	notev1 "plinth/api/plinth/note/v1"
	"plinth/internal/resource"
	"plinth/internal/rpc"
)

// RPC is NoteService on the wire. Connect drops the reply of a method that returns an error, too.
type RPC struct{ service *Service }

var _ notev1.NoteServiceHandler = (*RPC)(nil)

// NewRPC returns the handler.
func NewRPC(service *Service) *RPC { return &RPC{service} }

func (r *RPC) CreateNote(ctx context.Context, req *notev1.CreateNoteRequest) (*notev1.Note, error) {
	expires, err := rpc.TimeFromProto("expire_time", req.GetExpireTime())
	if err != nil {
		return nil, err
	}
	n, err := r.service.CreateNote(ctx, Note{Text: req.GetText(), ExpiresAt: expires})
	return noteToProto(n), err
}

func (r *RPC) GetNote(ctx context.Context, req *notev1.GetNoteRequest) (*notev1.Note, error) {
	n, err := r.service.GetNote(ctx, req.GetId())
	return noteToProto(n), err
}

func (r *RPC) ListNotes(ctx context.Context, req *notev1.ListNotesRequest) (*notev1.ListNotesResponse, error) {
	notes, next, err := r.service.ListNotes(ctx, int(req.GetPageSize()), req.GetPageToken())
	return &notev1.ListNotesResponse{Notes: rpc.SliceToProto(notes, noteToProto), NextPageToken: next}, err
}

func (r *RPC) UpdateNote(ctx context.Context, req *notev1.UpdateNoteRequest) (*notev1.Note, error) {
	expires, err := rpc.TimeFromProto("expire_time", req.GetExpireTime())
	if err != nil {
		return nil, err
	}
	change, err := resource.Change("note", req.GetUpdateMask().GetPaths(), map[string]resource.Field[Note]{
		"text":        {Set: req.GetText() != "", Copy: func(n *Note) { n.Text = req.GetText() }},
		"expire_time": {Set: req.GetExpireTime() != nil, Copy: func(n *Note) { n.ExpiresAt = expires }},
	})
	if err != nil {
		return nil, err
	}
	n, err := r.service.UpdateNote(ctx, req.GetId(), change)
	return noteToProto(n), err
}

func (r *RPC) DeleteNote(ctx context.Context, req *notev1.DeleteNoteRequest) (*notev1.DeleteNoteResponse, error) {
	return &notev1.DeleteNoteResponse{}, r.service.DeleteNote(ctx, req.GetId())
}

func noteToProto(n Note) *notev1.Note {
	return &notev1.Note{
		Id: n.ID, Text: n.Text, CreateTime: timestamppb.New(n.CreatedAt), ExpireTime: rpc.TimeToProto(n.ExpiresAt),
	}
}
