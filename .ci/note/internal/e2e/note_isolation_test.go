package e2e

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	notev1 "plinth/api/plinth/note/v1"
)

func (p party) notes() notev1.NoteServiceClient {
	return notev1.NewNoteServiceClient(p.http, p.url, p.options...)
}

func hiddenNotes(t *testing.T, acme, _ party) hidden {
	var ids []string
	for _, text := range []string{"hidden", "secret"} {
		n, err := acme.notes().CreateNote(t.Context(), &notev1.CreateNoteRequest{Text: text})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, n.GetId())
	}
	page, err := acme.notes().ListNotes(t.Context(), &notev1.ListNotesRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	return hidden{
		tries: map[protoreflect.Name]func(*testing.T, party){
			"CreateNote": func(t *testing.T, other party) {
				if _, err := other.notes().CreateNote(t.Context(), &notev1.CreateNoteRequest{Text: "mine"}); err != nil {
					t.Error(err)
				}
			},
			"GetNote": func(t *testing.T, other party) {
				_, err := other.notes().GetNote(t.Context(), &notev1.GetNoteRequest{Id: ids[0]})
				wantCode(t, err, connect.CodeNotFound)
			},
			"ListNotes": func(t *testing.T, other party) {
				res, err := other.notes().ListNotes(t.Context(), &notev1.ListNotesRequest{})
				if err != nil || strings.Contains(res.String(), "hidden") {
					t.Errorf("got %v, %v", res, err)
				}
				_, err = other.notes().ListNotes(t.Context(), &notev1.ListNotesRequest{PageSize: 1, PageToken: page.GetNextPageToken()})
				wantCode(t, err, connect.CodeInvalidArgument)
			},
			"UpdateNote": func(t *testing.T, other party) {
				_, err := other.notes().UpdateNote(t.Context(), &notev1.UpdateNoteRequest{Id: ids[0], Text: "changed"})
				wantCode(t, err, connect.CodeNotFound)
			},
			"DeleteNote": func(t *testing.T, other party) {
				_, err := other.notes().DeleteNote(t.Context(), &notev1.DeleteNoteRequest{Id: ids[0]})
				wantCode(t, err, connect.CodeNotFound)
			},
		},
		state: func(t *testing.T) []proto.Message {
			res, err := acme.notes().ListNotes(t.Context(), &notev1.ListNotesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return []proto.Message{res}
		},
	}
}
