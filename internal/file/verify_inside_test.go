package file

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"plinth/internal/blob"
	"plinth/internal/blob/blobtest"
)

// A worker that ends leaves what it reads to the next one, and one that cannot read comes back.
func TestVerifyingGoesOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	content := random(blob.MinPart + 1)
	d := f.offered(t, "acme", Upload{}, content, blob.MinPart)
	f.sendURLs(t, "acme", d, content, 1, 2)
	if _, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	claim := func() Direct {
		t.Helper()
		claimed, err := claimUnverified(t.Context(), f.system)
		if err != nil || len(claimed) != 1 {
			t.Fatalf("%+v %v", claimed, err)
		}
		return claimed[0]
	}
	held := claim()
	if claimed, err := claimUnverified(t.Context(), f.system); err != nil || len(claimed) != 0 {
		t.Errorf("two workers read it: %+v %v", claimed, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f.verify(ended, held)
	held = claim() // At once.
	f.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
	f.verify(t.Context(), held)
	f.proxy.Set(nil)
	if claimed, err := claimUnverified(t.Context(), f.system); err != nil || len(claimed) != 0 {
		t.Errorf("it is tried again at once: %+v %v", claimed, err)
	}
	f.exec(t, `UPDATE files SET verify_at = now()`)
	held = claim()
	if err := f.DeleteFile(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	f.verify(t.Context(), held)
	f.exec(t, `UPDATE files SET verify_at = now() WHERE verify_at < 'infinity'`)
	for _, left := range []int{1, 0} {
		claimed, err := claimUnverified(t.Context(), f.system)
		if err != nil || len(claimed) > left {
			t.Errorf("a deleted file is read: %+v %v", claimed, err)
		}
		for _, c := range claimed {
			f.verify(t.Context(), c)
		}
	}
	if n := f.heard(t, created); n != 0 {
		t.Errorf("told of %d", n)
	}
}

// Bytes that were replaced before they were verified are not a file.
func TestVerifyReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	d := f.offered(t, "acme", Upload{}, random(10), blob.MinPart)
	f.sendURLs(t, "acme", d, random(10), 1)
	if _, err := f.CompleteUpload(as(t, "acme"), d.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.bucket.Put(t.Context(), d.Key(), strings.NewReader("0123456789"), 10); err != nil {
		t.Fatal(err)
	}
	f.work(t)
	eventually(t, "it fails", func() bool {
		file, err := f.GetFile(as(t, "acme"), d.ID)
		return err == nil && file.State == Failed
	})
	f.noTrace(t, "acme")
}

// Tenants take turns, however many files one of them has.
func TestVerifyingTakesTurns(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{})
	for _, tenant := range []string{"a", "a", "a", "b", "c"} {
		d := f.offered(t, tenant, Upload{}, random(10), blob.MinPart)
		f.sendURLs(t, tenant, d, random(10), 1)
		if _, err := f.CompleteUpload(as(t, tenant), d.ID); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for range 5 {
		claimed, err := claimUnverified(t.Context(), f.system)
		if err != nil || len(claimed) != 1 {
			t.Fatal(claimed, err)
		}
		order = append(order, claimed[0].tenant)
	}
	if !slices.Equal(order, []string{"a", "b", "c", "a", "a"}) {
		t.Error(order)
	}
}
