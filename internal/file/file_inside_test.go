package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

func names(files []File) (names []string) {
	for _, f := range files {
		names = append(names, f.Filename)
	}
	return names
}

func TestListFiles(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	for i, u := range []Upload{
		{Filename: "a1.txt", Folder: "x", Attributes: map[string]string{"k": "v", "n": "1"}},
		{Filename: "a2.csv", Folder: "x/y", DeclaredType: "text/csv", Attributes: map[string]string{"k": "v"}},
		{Filename: "b.txt", Folder: "x0"}, {Filename: "a%.txt"}, {Filename: "ä.txt", Folder: "x/y/z"},
	} {
		u.Size = int64(i)
		f.upload(t, "acme", u, bytes.Repeat([]byte("x"), i))
	}
	f.upload(t, "other", Upload{Filename: "theirs", Folder: "x", Size: 0}, nil)
	list := func(filter Filter) []string {
		t.Helper()
		files, _, err := f.ListFiles(as(t, "acme"), filter, 0, "")
		if err != nil {
			t.Fatal(err)
		}
		return names(files)
	}
	for _, test := range []struct {
		filter Filter
		want   []string
	}{
		{Filter{}, []string{"ä.txt", "a%.txt", "b.txt", "a2.csv", "a1.txt"}},
		{Filter{NamePrefix: "a"}, []string{"a%.txt", "a2.csv", "a1.txt"}}, {Filter{NamePrefix: "a%"}, []string{"a%.txt"}}, {Filter{NamePrefix: "_"}, nil},
		{Filter{Folder: "x"}, []string{"ä.txt", "a2.csv", "a1.txt"}}, {Filter{Folder: "x/y"}, []string{"ä.txt", "a2.csv"}}, {Filter{Folder: "y"}, nil},
		{Filter{ContentType: "text/csv"}, []string{"a2.csv"}}, {Filter{ContentType: "text/*"}, []string{"ä.txt", "a%.txt", "b.txt", "a2.csv"}},
		{Filter{State: Ready, MinSize: 3}, []string{"ä.txt", "a%.txt"}}, {Filter{MaxSize: 1}, []string{"a2.csv", "a1.txt"}}, {Filter{State: Failed}, nil},
		{Filter{Attributes: map[string]string{"k": "v"}}, []string{"a2.csv", "a1.txt"}}, {Filter{Attributes: map[string]string{"k": "v", "n": "1"}}, []string{"a1.txt"}},
		{Filter{From: time.Now().Add(time.Hour)}, nil}, {Filter{To: time.Now().Add(-time.Hour)}, nil},
	} {
		if got := list(test.filter); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.filter, got, test.want)
		}
	}
	for parent, want := range map[string][]string{"": {"x", "x0"}, "x": {"x/y"}, "x/y": {"x/y/z"}, "x/y/z": nil} {
		got, _, err := f.ListFolders(as(t, "acme"), parent, 0, "")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("in %q are %v, %v", parent, got, err)
		}
	}
	first, next, err := f.ListFolders(as(t, "acme"), "", 1, "")
	if err != nil || !slices.Equal(first, []string{"x"}) {
		t.Errorf("%v %v", first, err)
	}
	if last, end, err := f.ListFolders(as(t, "acme"), "", 1, next); err != nil || !slices.Equal(last, []string{"x0"}) || end != "" {
		t.Errorf("%v %q %v", last, end, err)
	}
}

// Pages have none of the files twice and miss none of the old ones, while others come and go.
func TestPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	var old []string
	for i := range 10 {
		old = append(old, f.upload(t, "acme", Upload{Filename: fmt.Sprint(i)}, nil).ID)
	}
	seen := map[string]int{}
	for token, page := "", 0; page == 0 || token != ""; page++ {
		files, next, err := f.ListFiles(as(t, "acme"), Filter{}, 3, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			seen[file.ID]++
		}
		if page == 0 {
			if _, _, err := f.ListFiles(as(t, "other"), Filter{}, 3, next); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("another tenant uses the token: %v", err)
			}
			if err := f.DeleteFile(as(t, "acme"), files[0].ID); err != nil {
				t.Fatal(err)
			}
		}
		f.upload(t, "acme", Upload{Filename: "new"}, nil)
		token = next
	}
	for _, id := range old {
		if seen[id] != 1 {
			t.Errorf("%s came %d times", id, seen[id])
		}
	}
}

func TestUpdateFile(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	file := f.upload(t, "acme", Upload{Filename: "a"}, nil)
	got, err := f.UpdateFile(as(t, "acme"), file.ID, func(c *File) {
		c.Filename, c.Folder, c.Attributes = "x/b", "y/", map[string]string{"k": "v"}
	})
	if err != nil || got.Filename != "b" || got.Folder != "y" || got.Attributes["k"] != "v" {
		t.Errorf("%+v %v", got, err)
	}
	for _, change := range []func(*File){
		func(c *File) { c.Filename = "" }, func(c *File) { c.Folder = ".." }, func(c *File) { c.ExpiresAt = time.Now().Add(-time.Second) },
		func(c *File) { c.Attributes = map[string]string{"": ""} },
	} {
		if _, err := f.UpdateFile(as(t, "acme"), file.ID, change); !errs.Is(err, errs.InvalidArgument) {
			t.Error(err)
		}
	}
	if _, err := f.UpdateFile(as(t, "other"), file.ID, func(*File) {}); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

// A deleted file is gone at once; its object follows, whoever dies between, and it is told of once.
func TestDeleteFile(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.listen(t, "acme")
	file := f.upload(t, "acme", Upload{Filename: "a", Size: 1000}, random(1000))
	if err := f.DeleteFile(as(t, "other"), file.ID); err != nil {
		t.Fatal(err)
	}
	if got := f.read(t, file); len(got) != 1000 {
		t.Error("another tenant deletes it")
	}
	for range 2 {
		if err := f.DeleteFile(as(t, "acme"), file.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.GetFile(as(t, "acme"), file.ID); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if count, size := f.usage(t, "acme"); count != 0 || size != 0 {
		t.Errorf("%d files of %d bytes are counted", count, size)
	}
	// The storage is away: the worker comes back. A worker that dies after the object was removed leaves the row to the next one.
	f.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
	claimed, err := claimDue(t.Context(), f.system, 10, time.Minute)
	if err != nil || len(claimed) != 1 {
		t.Fatal(claimed, err)
	}
	f.workOff(t.Context(), claimed[0])
	f.proxy.Set(nil)
	if err := f.bucket.Remove(t.Context(), file.Key()); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `UPDATE files SET due_at = now()`)
	f.work(t)
	eventually(t, "the row is gone", func() bool {
		_, err := selectFile(as(t, "acme"), f.db, file.ID)
		return errs.Is(err, errs.NotFound)
	})
	f.noTrace(t, "acme")
	if n := f.heard(t, deleted); n != 1 {
		t.Errorf("told of %d times", n)
	}
	if err := f.DeleteFile(as(t, "acme"), file.ID); err != nil {
		t.Error(err)
	}
}

// A bucket that keeps versions keeps none of a file that was deleted, and no delete marker.
func TestDeleteVersions(t *testing.T) {
	t.Parallel()
	f := onServer(t, blobtest.NewVersioned(t), Limits{})
	f.work(t)
	file := f.upload(t, "acme", Upload{Filename: "a", Size: 998, Slack: 2}, random(1000)) // Two versions: it is put again.
	if file.object.Version == "" || !bytes.Equal(f.read(t, file), random(1000)) {
		t.Errorf("%+v", file)
	}
	if err := f.DeleteFile(as(t, "acme"), file.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all versions are gone", func() bool { return len(f.server.Versions(t)) == 0 })
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	f.listen(t, "acme")
	f.work(t)
	soon := f.upload(t, "acme", Upload{Filename: "soon", ExpiresAt: time.Now().Add(time.Second)}, nil)
	later := f.upload(t, "acme", Upload{Filename: "later", ExpiresAt: time.Now().Add(time.Second)}, nil)
	if _, err := f.UpdateFile(as(t, "acme"), later.ID, func(c *File) { c.ExpiresAt = time.Time{} }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool {
		_, err := selectFile(as(t, "acme"), f.db, soon.ID)
		return errs.Is(err, errs.NotFound)
	})
	if _, err := f.GetFile(as(t, "acme"), later.ID); err != nil || f.heard(t, deleted) != 1 {
		t.Errorf("%v, told of %d", err, f.heard(t, deleted))
	}
}

// A file is read by its inspectors alone until they accept it, and gone when they refuse.
func TestInspectFile(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{InspectQueue: "inspect"})
	f.listen(t, "acme")
	f.work(t)
	inspector := auth.With(as(t, "acme"), &auth.Principal{ID: "key:1", Tenant: auth.Tenant{Name: "acme"}, Scopes: []string{"files.inspect"}})
	reader := auth.With(as(t, "acme"), &auth.Principal{ID: "key:2", Tenant: auth.Tenant{Name: "acme"}, Scopes: []string{"files.read"}})
	good, bad := f.upload(t, "acme", Upload{Filename: "good", Size: 10}, random(10)), f.upload(t, "acme", Upload{Filename: "bad", Size: 10}, random(10))
	var asked int
	if err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT count(*) FROM message_waiting WHERE queue = 'inspect'`).Scan(&asked); err != nil || asked != 2 {
		t.Errorf("%d inspections are asked for, %v", asked, err)
	}
	if _, err := f.Readable(reader, good.ID); good.State != Verifying || !errs.Is(err, errs.NotFound) {
		t.Errorf("%s: %v", good.State, err)
	}
	if _, err := f.Readable(inspector, good.ID); err != nil || f.heard(t, created) != 0 {
		t.Errorf("%v, told of %d", err, f.heard(t, created))
	}
	for range 2 {
		if got, err := f.InspectFile(inspector, good.ID, true, ""); err != nil || got.State != Ready {
			t.Errorf("%+v %v", got, err)
		}
		if got, err := f.InspectFile(inspector, bad.ID, false, "a virus"); err != nil || got.State != Failed {
			t.Errorf("%+v %v", got, err)
		}
	}
	for id, accept := range map[string]bool{good.ID: false, bad.ID: true} {
		if _, err := f.InspectFile(inspector, id, accept, ""); !errs.Is(err, errs.FailedPrecondition) {
			t.Error(err)
		}
	}
	if _, err := f.Readable(reader, good.ID); err != nil || f.heard(t, created) != 1 {
		t.Errorf("%v, told of %d", err, f.heard(t, created))
	}
	if got, err := f.GetFile(reader, bad.ID); err != nil || got.Failure != "a virus" {
		t.Errorf("%+v %v", got, err)
	}
	eventually(t, "its object is gone", func() bool { keys, _ := f.objects(t); return len(keys) == 1 })
	if count, _ := f.usage(t, "acme"); count != 1 {
		t.Errorf("%d are counted", count)
	}
}

func gets(r *http.Request) bool { return r.Method == http.MethodGet }

// A download goes on where the storage broke off, and never has bytes of another object.
func TestDownload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	content := random(1 << 20)
	file := f.upload(t, "acme", Upload{Filename: "a", Size: 1 << 20}, content)
	for _, fault := range []blobtest.Fault{{CutDown: 400_000}, {CutDown: -1}, {Status: 503, Body: slowDown}, {CutUp: -1}} {
		f.proxy.Set(blobtest.Times(2, gets, fault))
		if got := f.read(t, file); !bytes.Equal(got, content) {
			t.Errorf("%+v: %d other bytes", fault, len(got))
		}
	}
	f.proxy.Set(blobtest.Times(100, gets, blobtest.Fault{CutDown: 10_000}))
	var got bytes.Buffer
	err := f.DownloadFile(as(t, "acme"), file, 0, file.Size, func(chunk []byte) error { got.Write(chunk); return nil })
	if !errs.Is(err, errs.Unavailable) || !bytes.HasPrefix(content, got.Bytes()) || got.Len() == len(content) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	f.proxy.Set(nil)
	gone := errors.New("the client is gone")
	if err := f.DownloadFile(as(t, "acme"), file, 0, file.Size, func([]byte) error { return gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(as(t, "acme"))
	cancel()
	if err := f.DownloadFile(ctx, file, 0, file.Size, func([]byte) error { return nil }); !errs.Is(err, errs.Canceled) {
		t.Error(err)
	}
	got.Reset()
	if err := f.DownloadFile(as(t, "acme"), file, 100, 50, func(chunk []byte) error { got.Write(chunk); return nil }); err != nil || !bytes.Equal(got.Bytes(), content[100:150]) {
		t.Errorf("a part: %d bytes, %v", got.Len(), err)
	}
	if _, err := f.bucket.Put(t.Context(), file.Key(), bytes.NewReader(random(1<<20 + 1)[1:]), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.DownloadFile(as(t, "acme"), file, 0, file.Size, func([]byte) error { return errors.New("foreign bytes") }); !errs.Is(err, errs.DataLoss) {
		t.Errorf("replaced: %v", err)
	}
	if err := f.bucket.Remove(t.Context(), file.Key()); err != nil {
		t.Fatal(err)
	}
	if err := f.DownloadFile(as(t, "acme"), file, 0, file.Size, nil); !errs.Is(err, errs.DataLoss) || strings.Contains(err.(*errs.Error).Message, "acme") {
		t.Errorf("removed: %v", err)
	}
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{Orphans: report, OrphanAge: time.Hour})
	ctx, bucket := t.Context(), f.server.Open(t, f.server.Endpoint)
	kept := f.upload(t, "tenant1", Upload{Filename: "a", Size: 10}, random(10))
	orphans := []string{"tenant1/0198c0de-0000-7000-8000-000000000001", "tenant10/0198c0de-0000-7000-8000-000000000002"}
	foreign := "backups/notes.txt"
	for _, key := range append(orphans, foreign) {
		if _, err := bucket.Put(ctx, key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bucket.Start(ctx, orphans[0]); err != nil {
		t.Fatal(err)
	}
	all := func() int { keys, begun := f.objects(t); return len(keys) + len(begun) }
	reap := func(age time.Duration, orphans string) {
		t.Helper()
		f.limits.OrphanAge, f.limits.Orphans = age, orphans
		if err := f.reapOrphans(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if reap(time.Hour, remove); all() != 5 {
		t.Errorf("what is young is removed: %d are left", all())
	}
	if reap(-time.Hour, report); all() != 4 {
		t.Errorf("a report leaves %d", all()) // Parts that nobody will complete go in any case.
	}
	if reap(-time.Hour, remove); all() != 4 {
		t.Errorf("what a restored database may have forgotten is removed: %d are left", all())
	}
	f.exec(t, `UPDATE file_storage SET since = since - interval '1 hour'`)
	reap(-time.Hour, remove)
	if keys, _ := f.objects(t); !slices.Equal(keys, []string{foreign, kept.Key()}) {
		t.Errorf("%v are left", keys)
	}
	f.exec(t, `UPDATE file_storage SET identity = 'another'`)
	if _, err := bucket.Put(ctx, orphans[0], strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	if reap(-time.Hour, remove); all() != 3 {
		t.Errorf("after a restore %d are left", all())
	}
}

func TestRemoveTenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	for range 3 {
		f.upload(t, "tenant1", Upload{Filename: "a", Size: 10}, random(10))
	}
	kept := f.upload(t, "tenant10", Upload{Filename: "a", Size: 10}, random(10))
	if _, err := f.bucket.Start(t.Context(), "tenant1/0198c0de-0000-7000-8000-000000000001"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is done", func() bool {
		done, err := f.RemoveTenant(as(t, "tenant1"))
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
	if keys, begun := f.objects(t); !slices.Equal(keys, []string{kept.Key()}) || len(begun) > 0 {
		t.Errorf("%v and %v are left", keys, begun)
	}
}
