package file

import (
	"bytes"
	"testing"
)

// An upload that is not continued, or ended, leaves no trace.
func TestTusEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t, resumable)
	expired, ended := s.begin(t, 10<<20), s.begin(t, 10<<20)
	for _, path := range []string{expired, ended} {
		if res, _ := s.patch(t, path, 0, bytes.NewReader(random(9<<20))); res.StatusCode != 204 {
			t.Fatal(res.StatusCode)
		}
	}
	if keys, begun := s.objects(t); len(keys) != 2 || len(begun) != 2 {
		t.Errorf("%v and %v are in the bucket", keys, begun)
	}
	if res, text := s.tus(t, "DELETE", ended, nil); res.StatusCode != 204 {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	s.exec(t, `UPDATE files SET due_at = now() WHERE id = $1`, idOf(expired))
	gone := func() {
		for _, path := range []string{expired, ended} {
			if res, _ := s.tus(t, "HEAD", path, nil); res.StatusCode != 410 {
				t.Errorf("HEAD: %d", res.StatusCode)
			}
			// A client that still writes when the server closes the connection may miss the reply. So much is read before.
			res, text := s.patch(t, path, 9<<20, bytes.NewReader(random(64<<10)))
			wantError(t, res, text, 410, "not_found", "given up")
			res, text = s.tus(t, "DELETE", path, nil)
			wantError(t, res, text, 410, "not_found", "given up")
		}
	}
	gone()
	s.work(t)
	eventually(t, "the upload has failed", func() bool {
		f, err := s.GetFile(as(t, "acme"), idOf(expired))
		return err == nil && f.State == Failed
	})
	gone()
	s.noTrace(t, "acme")
	eventually(t, "the rows are gone", func() bool {
		s.exec(t, `UPDATE files SET writable_until = now(), due_at = now()`) // Again, if the first look has just ended.
		s.notifier.Notify(channel, dueFiles)
		one, _ := s.tus(t, "HEAD", expired, nil)
		two, _ := s.tus(t, "HEAD", ended, nil)
		return one.StatusCode == 404 && two.StatusCode == 404
	})
	complete := s.begin(t, 0)
	res, text := s.tus(t, "DELETE", complete, nil)
	wantError(t, res, text, 409, "failed_precondition", "complete")
}
