package file

import (
	"io"
	"strings"
	"testing"
)

// What a process holds names the upload that a request continues, and no longer once the request is over.
func TestStateOfResumableUploads(t *testing.T) {
	t.Parallel()
	s := newSite(t, resumable)
	path := s.begin(t, 10)
	s.patch(t, path, 0, strings.NewReader("1234"))
	if uploads := s.ProcessState().(ProcessState).Resumable; len(uploads) != 0 {
		t.Errorf("between requests: %+v", uploads)
	}
	body, more := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.patch(t, path, 4, body)
	}()
	_, _ = io.WriteString(more, "5")
	var uploads []UploadState
	eventually(t, "the request is at work", func() bool {
		uploads = s.ProcessState().(ProcessState).Resumable
		return len(uploads) > 0
	})
	if len(uploads) != 1 || uploads[0].Tenant != "acme" || uploads[0].ID != idOf(path) || uploads[0].Length != 10 || uploads[0].Offset != 4 ||
		uploads[0].StartTime.IsZero() {
		t.Errorf("%+v", uploads)
	}
	_ = more.Close()
	<-sent
	if uploads := s.ProcessState().(ProcessState).Resumable; len(uploads) != 0 {
		t.Errorf("after the request: %+v", uploads)
	}
}
