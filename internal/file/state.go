package file

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// ProcessState is what a process holds of files at the moment.
type ProcessState struct {
	Uploads   int           `json:"uploads"` // of unknown length, which need memory
	Bytes     int           `json:"bytes"`   // of that memory, in use
	Most      int           `json:"most"`
	Resumable []UploadState `json:"resumable"` // that it has the lease of
}

// UploadState is a resumable upload that a request to this process continues.
type UploadState struct {
	Tenant    string    `json:"tenant"`
	ID        string    `json:"id"`
	Length    int64     `json:"length"` // -1 if the client has not said it
	Offset    int64     `json:"offset"` // where the request goes on
	StartTime time.Time `json:"start_time"`
}

// ProcessState returns what this process holds.
func (s *Service) ProcessState() any {
	s.pool.mu.Lock()
	state := ProcessState{Uploads: len(s.pool.places), Bytes: s.pool.lent * blockSize, Most: s.pool.total * blockSize}
	s.pool.mu.Unlock()
	state.Resumable = s.resuming.all()
	return state
}

// resuming are the resumable uploads that this process has the lease of.
type resuming struct {
	mu      sync.Mutex
	uploads map[*UploadState]bool
}

// add adds an upload, which the function that it returns removes.
func (l *resuming) add(u UploadState) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploads[&u] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.uploads, &u)
	}
}

func (l *resuming) all() []UploadState {
	l.mu.Lock()
	all := make([]UploadState, 0, len(l.uploads))
	for u := range l.uploads {
		all = append(all, *u)
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b UploadState) int { return cmp.Or(a.StartTime.Compare(b.StartTime), cmp.Compare(a.ID, b.ID)) })
	return all
}
