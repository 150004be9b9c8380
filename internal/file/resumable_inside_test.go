package file

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

// twins are two processes on one database and one bucket, which the second one reaches by a proxy of its own.
func twins(t *testing.T) (one, two fixture) {
	t.Helper()
	one = newFixture(t, resumable)
	two = on(t, one.server, one.url, resumable)
	return one, two
}

func (f fixture) create(t *testing.T, length int) string {
	t.Helper()
	r, err := f.CreateResumable(as(t, "acme"), Upload{Filename: "a", Size: int64(length)}, "")
	if err != nil {
		t.Fatal(err)
	}
	return r.File.ID
}

func (f fixture) add(ctx context.Context, id string, offset int, body io.Reader) (Resumable, error) {
	return f.Append(ctx, id, Append{Offset: int64(offset), Length: unknown, Size: unknown}, body)
}

// hanging is a body that waits after its bytes, until it is stopped.
type hanging struct {
	content *bytes.Reader
	waits   chan struct{} // closed when it waits
	stopped chan error
}

func newHanging(content []byte) *hanging {
	return &hanging{bytes.NewReader(content), make(chan struct{}), make(chan error, 10)}
}

func (h *hanging) Read(p []byte) (int, error) {
	if h.content.Len() > 0 {
		return h.content.Read(p)
	}
	select {
	case <-h.waits:
	default:
		close(h.waits)
	}
	return 0, <-h.stopped
}

func (h *hanging) stop(why error) {
	select {
	case h.stopped <- why:
	default:
	}
}

// hang has a process work on an upload until it is told to let go. The error is that of Append.
func (f fixture) hang(t *testing.T, id string, content []byte) (h *hanging, ended chan error) {
	t.Helper()
	h, ended = newHanging(content), make(chan error, 1)
	ctx := as(t, "acme")
	go func() {
		_, err := f.Append(ctx, id, Append{Length: unknown, Size: unknown, Stop: h.stop}, h)
		ended <- err
	}()
	<-h.waits
	return h, ended
}

// Whoever wants an upload gets it, with all that the other one has received.
func TestResumableIsHandedOver(t *testing.T) {
	t.Parallel()
	one, two := twins(t)
	content := random(partSize + 5000)
	id := one.create(t, len(content))
	_, ended := one.hang(t, id, content[:partSize+1000])
	r, err := two.GetResumable(as(t, "acme"), id)
	if err != nil || r.Received != partSize+1000 {
		t.Fatalf("%+v %v", r, err)
	}
	if err := <-ended; !errs.Is(err, errs.Aborted) {
		t.Errorf("who let go says %v", err)
	}
	r, err = two.add(as(t, "acme"), id, partSize+1000, bytes.NewReader(content[partSize+1000:]))
	if err != nil || r.File.State != Ready || r.File.Checksum != sum(content) || !bytes.Equal(two.read(t, r.File), content) {
		t.Errorf("%+v %v", r, err)
	}
}

// A process that has lost its lease stores nothing more, and takes nothing away, however late it comes back.
func TestResumableIsFenced(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, first int }{ // what the late process sends, and the other one before that arrives
		"a tail": {1000, 100}, "a long tail": {partSize - 10, 100}, "a part": {partSize, partSize + 100}, "the last part": {partSize + 5000, partSize + 5000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := twins(t)
			content, other := random(partSize+5000), bytes.Repeat([]byte("x"), partSize+5000)
			id := one.create(t, len(content))
			// It stops between its bytes and the bucket: the proxy holds what it writes. It sends other bytes than the second one.
			arrived, goOn := make(chan struct{}), make(chan struct{})
			var held atomic.Bool
			one.proxy.Set(func(r *http.Request) blobtest.Fault {
				if r.Method == http.MethodPut && held.CompareAndSwap(false, true) {
					close(arrived)
					<-goOn
				}
				return blobtest.Fault{}
			})
			ended := make(chan error, 1)
			go func() {
				_, err := one.add(as(t, "acme"), id, 0, bytes.NewReader(other[:test.before]))
				ended <- err
			}()
			<-arrived
			one.exec(t, `UPDATE file_uploads SET token = token + 1, lease_until = now() WHERE id = $1`, id) // As if another one had had it.
			if test.first < len(content) {
				if _, err := two.add(as(t, "acme"), id, 0, bytes.NewReader(content[:test.first])); err != nil {
					t.Fatal(err)
				}
				close(goOn)
				if err := <-ended; !errs.Is(err, errs.Aborted) {
					t.Errorf("the late process says %v", err)
				}
				if _, err := two.add(as(t, "acme"), id, test.first, bytes.NewReader(content[test.first:])); err != nil {
					t.Fatal(err)
				}
			} else {
				if _, err := two.add(as(t, "acme"), id, 0, bytes.NewReader(content)); err != nil {
					t.Fatal(err)
				}
				close(goOn)
				if err := <-ended; err == nil {
					t.Error("the late process believes that it has stored the file")
				}
			}
			f, err := two.GetFile(as(t, "acme"), id)
			if err != nil || f.State != Ready || f.Checksum != sum(content) || !bytes.Equal(two.read(t, f), content) {
				t.Errorf("%+v %v", f, err)
			}
			eventually(t, "nothing but the object is left", func() bool {
				keys, begun := one.objects(t)
				if len(keys) == 1 && len(begun) == 0 {
					return true
				}
				one.sweepLater(t) // The late process's bytes may have arrived after all had ended.
				return false
			})
		})
	}
}

// sweepLater sweeps the uploads as it is done two hours later.
func (f fixture) sweepLater(t *testing.T) {
	t.Helper()
	f.exec(t, `UPDATE file_uploads SET lease_until = now() - interval '2 hours'`)
	if err := f.sweepUploads(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What a process that is gone left behind is removed once the upload is over.
func TestResumableIsSwept(t *testing.T) {
	t.Parallel()
	f := newFixture(t, resumable)
	id := f.create(t, 100)
	key := "acme/" + id
	if _, err := f.bucket.Put(t.Context(), key+".tail-1-0-1", bytes.NewReader([]byte("x")), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := f.bucket.Start(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	sweep := func() (keys, begun []string) {
		f.sweepLater(t)
		return f.objects(t)
	}
	if keys, begun := sweep(); len(keys) != 1 || len(begun) != 1 {
		t.Errorf("an upload that goes on has lost %v %v", keys, begun)
	}
	if _, err := f.add(as(t, "acme"), id, 0, bytes.NewReader(random(100))); err != nil {
		t.Fatal(err)
	}
	if keys, begun := sweep(); len(keys) != 1 || keys[0] != key || len(begun) != 0 {
		t.Errorf("%v %v are left", keys, begun)
	}
	var rows int
	err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT (SELECT count(*) FROM file_uploads) + (SELECT count(*) FROM file_upload_pieces)`).Scan(&rows)
	if err != nil || rows != 0 {
		t.Errorf("%d rows %v", rows, err)
	}
}

// An upload that somebody works on does not expire, and one that was continued since a worker took it does not, either.
func TestResumableExpires(t *testing.T) {
	t.Parallel()
	f := newFixture(t, resumable)
	id := f.create(t, 100)
	h, ended := f.hang(t, id, random(10))
	claim := func() File {
		f.exec(t, `UPDATE files SET due_at = now() - interval '1 second' WHERE id = $1`, id)
		claimed, err := claimDue(t.Context(), f.system, dueBatch, dueLease)
		if err != nil || len(claimed) != 1 {
			t.Fatal(claimed, err)
		}
		return claimed[0].File
	}
	state := func() State {
		file, err := f.GetFile(as(t, "acme"), id)
		if err != nil {
			t.Fatal(err)
		}
		return file.State
	}
	if err := f.abandon(as(t, "acme"), claim()); err != nil || state() != Pending {
		t.Errorf("%s %v", state(), err)
	}
	h.stop(io.ErrUnexpectedEOF)
	if err := <-ended; err == nil {
		t.Error("it ends well")
	}
	f.exec(t, `UPDATE file_uploads SET lease_until = now() - interval '1 hour'`)
	claimed := claim()
	if _, err := f.add(as(t, "acme"), id, 10, bytes.NewReader(random(10))); err != nil {
		t.Fatal(err)
	}
	if err := f.abandon(as(t, "acme"), claimed); err != nil || state() != Pending {
		t.Errorf("%s %v", state(), err)
	}
	f.exec(t, `UPDATE file_uploads SET lease_until = now() - interval '1 hour'`)
	if err := f.abandon(as(t, "acme"), claim()); err != nil || state() != Failed {
		t.Errorf("%s %v", state(), err)
	}
}

// No tenant learns of the uploads of another.
func TestResumableIsOfItsTenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t, resumable)
	id := f.create(t, 100)
	ctx := as(t, "other")
	_, read := f.GetResumable(ctx, id)
	_, added := f.add(ctx, id, 0, bytes.NewReader(random(10)))
	for _, err := range []error{read, added, f.EndResumable(ctx, id)} {
		if !errs.Is(err, errs.NotFound) {
			t.Error(err)
		}
	}
	if r, err := f.GetResumable(as(t, "acme"), id); err != nil || r.Received != 0 || r.File.State != Pending {
		t.Errorf("%+v %v", r, err)
	}
	if done, err := f.RemoveTenant(auth.AsService(t.Context(), "acme")); err != nil || !done {
		t.Errorf("%v %v", done, err)
	}
}

// A tenant's deletion removes what there is of its uploads.
func TestResumableGoesWithItsTenant(t *testing.T) {
	t.Parallel()
	f := newFixture(t, resumable)
	id := f.create(t, 2*partSize)
	if _, err := f.add(as(t, "acme"), id, 0, bytes.NewReader(random(partSize+100))); err != nil {
		t.Fatal(err)
	}
	if keys, begun := f.objects(t); len(keys) != 1 || len(begun) != 1 {
		t.Fatalf("%v %v", keys, begun)
	}
	eventually(t, "all is removed", func() bool {
		done, err := f.RemoveTenant(auth.AsService(t.Context(), "acme"))
		return done && err == nil
	})
	if keys, begun := f.objects(t); len(keys) != 0 || len(begun) != 0 {
		t.Errorf("%v %v are left", keys, begun)
	}
}

// Objects that wait belong to their file, and are orphans without it.
func TestTailsAreOrphansWithoutTheirFile(t *testing.T) {
	t.Parallel()
	limits := resumable
	limits.Orphans, limits.OrphanAge = remove, -time.Hour
	f := newFixture(t, limits)
	id := f.create(t, 100)
	if _, err := f.add(as(t, "acme"), id, 0, bytes.NewReader(random(10))); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `INSERT INTO file_storage SELECT system_identifier || '/' || timeline_id, now() - interval '1 day' FROM pg_control_system(), pg_control_checkpoint()`)
	reap := func() int {
		if err := f.reapOrphans(t.Context()); err != nil {
			t.Fatal(err)
		}
		keys, _ := f.objects(t)
		return len(keys)
	}
	if n := reap(); n != 1 {
		t.Errorf("%d objects are left of an upload", n)
	}
	f.exec(t, `DELETE FROM files`)
	if n := reap(); n != 0 {
		t.Errorf("%d objects are left of nothing", n)
	}
}

// What a slow client sends is stored every now and then.
func TestResumableIsSlow(t *testing.T) {
	t.Parallel()
	f := newFixture(t, resumable)
	f.fillTime = 10 * time.Millisecond
	content := random(2000)
	id := f.create(t, len(content))
	body, client := io.Pipe()
	ended := make(chan error, 1)
	ctx := as(t, "acme")
	go func() {
		_, err := f.add(ctx, id, 0, body)
		ended <- err
	}()
	sent := 0
	eventually(t, "some of it is stored", func() bool {
		if _, err := client.Write(content[sent : sent+1]); err != nil {
			t.Fatal(err)
		}
		sent++
		r, err := selectResumable(ctx, f.Service.db, id)
		return err == nil && r.Received > 0
	})
	if _, err := client.Write(content[sent:]); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if file, err := f.GetFile(ctx, id); err != nil || file.State != Ready || file.Checksum != sum(content) {
		t.Errorf("%+v %v", file, err)
	}
}

// Many slow uploads share the memory of parts.
func TestResumableMemory(t *testing.T) {
	f := newFixture(t, resumable)
	const size = 64 << 20
	id := f.create(t, size)
	peak := peakOf(func() {
		ctx, cancel := context.WithTimeout(auth.AsService(context.Background(), "acme"), patience)
		defer cancel()
		if r, err := f.add(ctx, id, 0, io.LimitReader(endless("0123456789abcdef"), size)); err != nil || r.Received != size {
			t.Error(strconv.FormatInt(r.Received, 10), err)
		}
	})
	t.Logf("%d MiB", peak>>20)
	if peak > 32<<20 {
		t.Errorf("the heap grows by %d MiB", peak>>20)
	}
}
