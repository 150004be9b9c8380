package file

import (
	"testing"

	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

// An upload that is not completed is given up, and what arrives for it later, too.
func TestDirectUploadThatIsNotCompleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	content := random(5<<20 + 1)
	whole := f.offered(t, "acme", Upload{Checksum: sum(content)}, content, 0)
	inParts := f.offered(t, "acme", Upload{}, content, blob.MinPart)
	f.sendURLs(t, "acme", inParts, content, 1)
	stop := f.work(t)
	f.exec(t, `UPDATE files SET due_at = now(), direct_until = now()`)
	f.wakeAll(t)
	eventually(t, "both fail", func() bool {
		files, _, err := f.ListFiles(as(t, "acme"), Filter{State: Failed}, 0, "")
		return err == nil && len(files) == 2
	})
	f.noTrace(t, "acme")
	for _, d := range []Direct{whole, inParts} {
		if _, err := f.CompleteUpload(as(t, "acme"), d.ID); !errs.Is(err, errs.FailedPrecondition) {
			t.Error(err)
		}
		if err := f.AbortUpload(as(t, "acme"), d.ID); err != nil {
			t.Error(err)
		}
	}
	if status := send(t, whole.Request, content); status != 200 {
		t.Fatal(status)
	}
	if keys, _ := f.objects(t); len(keys) != 1 {
		t.Fatalf("%v", keys)
	}
	f.exec(t, `UPDATE files SET due_at = now()`)
	f.wakeAll(t)
	f.noTrace(t, "acme")
	stop()
	files, _, err := f.ListFiles(as(t, "acme"), Filter{}, 0, "")
	if err != nil || len(files) != 2 {
		t.Errorf("%+v %v", files, err) // Their rows are there as long as something may arrive.
	}
	f.exec(t, `UPDATE files SET due_at = now(), writable_until = now()`)
	f.work(t)
	eventually(t, "their rows are gone", func() bool {
		files, _, err := f.ListFiles(as(t, "acme"), Filter{}, 0, "")
		return err == nil && len(files) == 0
	})
}

// wakeAll has the worker look for what a test has made due.
func (f fixture) wakeAll(t *testing.T) {
	t.Helper()
	f.due.Wake()
	f.unproven.Wake()
}

// A URL that has not expired stores nothing for good after its file was deleted.
func TestDirectUploadAfterItsFileIsDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.work(t)
	d := f.offered(t, "acme", Upload{Checksum: sum(random(10))}, random(10), 0)
	send(t, d.Request, random(10))
	if _, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteFile(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its object is gone", func() bool { keys, _ := f.objects(t); return len(keys) == 0 })
	if status := send(t, d.Request, random(10)); status != 200 {
		t.Fatal(status)
	}
	for _, call := range []func() error{
		func() error { _, err := f.CompleteUpload(as(t, "acme"), d.ID); return err },
		func() error { return f.AbortUpload(as(t, "acme"), d.ID) },
		func() error { _, _, err := f.CreatePartUrls(as(t, "acme"), d.ID, 1, 1); return err },
		func() error {
			_, _, err := f.CreateDownloadUrl(as(t, "acme"), d.ID, "", "", 0)
			return err
		},
	} {
		if err := call(); !errs.Is(err, errs.NotFound) {
			t.Error(err)
		}
	}
	f.exec(t, `UPDATE files SET due_at = now()`)
	f.wakeAll(t)
	eventually(t, "its object is gone again", func() bool { keys, _ := f.objects(t); return len(keys) == 0 })
	eventually(t, "it is looked for again within the hour", func() bool {
		var within bool
		err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT due_at BETWEEN now() + interval '50 minutes' AND now() + interval '60 minutes' FROM files`).Scan(&within)
		return err == nil && within
	})
}

// Uploads that are given up one after the other do not fill the database.
func TestGivenUpUploads(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.givenUp = 1000
	f.exec(t, `INSERT INTO files (tenant, id, filename, state, direct_until, writable_until)
		SELECT 'acme', gen_random_uuid(), 'a', 'failed', now(), now() + interval '1 hour' FROM generate_series(1, $1)`, f.givenUp)
	u := Upload{Filename: "a", Size: 1, Checksum: sum(random(1))}
	if _, err := f.CreateUploadUrl(as(t, "acme"), u, 0, 0); !errs.Is(err, errs.ResourceExhausted) {
		t.Error(err)
	}
	if _, err := f.CreateUploadUrl(as(t, "other"), u, 0, 0); err != nil {
		t.Error(err)
	}
	f.exec(t, `UPDATE files SET writable_until = now() WHERE id IN (SELECT id FROM files WHERE tenant = 'acme' LIMIT 10)`)
	if _, err := f.CreateUploadUrl(as(t, "acme"), u, 0, 0); err != nil {
		t.Error(err)
	}
}
