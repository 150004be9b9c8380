package file

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"plinth/internal/blob/blobtest"
	"plinth/internal/errs"
)

// painted is an image whose left half is red and whose right half is blue.
func painted(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			if x < w/2 {
				m.Set(x, y, color.RGBA{R: 255, A: 255})
			} else {
				m.Set(x, y, color.RGBA{B: 255, A: 255})
			}
		}
	}
	return m
}

func encoded(t *testing.T, encode func(w *bytes.Buffer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pngOf(t *testing.T, m image.Image) []byte {
	t.Helper()
	return encoded(t, func(w *bytes.Buffer) error { return png.Encode(w, m) })
}

func jpegOf(t *testing.T, m image.Image) []byte {
	t.Helper()
	return encoded(t, func(w *bytes.Buffer) error { return jpeg.Encode(w, m, nil) })
}

// bomb is a PNG of a few bytes that says it has so many pixels.
func bomb(w, h uint32) []byte {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte("IHDR"), w), h)
	header = append(header, 8, 6, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), header...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(header))
}

func TestPreview(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{Stall: patience})
	s.work(t)
	webp, err := base64.StdEncoding.DecodeString("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		content []byte
		w, h    int // of the preview
	}{
		"a.png":     {pngOf(t, painted(1000, 500)), 256, 128},
		"a.jpg":     {jpegOf(t, painted(300, 600)), 128, 256},
		"a.gif":     {encoded(t, func(w *bytes.Buffer) error { return gif.Encode(w, painted(512, 512), nil) }), 256, 256},
		"a.webp":    {webp, 1, 1},
		"small.png": {pngOf(t, painted(20, 10)), 20, 10},
		"flat.png":  {pngOf(t, painted(5000, 2)), 256, 1},
	} {
		f := s.upload(t, "acme", Upload{Filename: name, Size: int64(len(test.content))}, test.content)
		res, body := s.do(t, "GET", "/api/v1/files/"+f.ID+"/preview", nil)
		m, err := png.Decode(bytes.NewReader(body))
		if res.StatusCode != 200 || err != nil {
			t.Errorf("%s: %d %.200s %v", name, res.StatusCode, body, err)
			continue
		}
		if m.Bounds().Dx() != test.w || m.Bounds().Dy() != test.h {
			t.Errorf("%s: it has %v", name, m.Bounds())
		}
		if name != "a.webp" {
			left, _, blue, _ := m.At(0, 0).RGBA()
			red, _, right, _ := m.At(test.w-1, test.h-1).RGBA()
			if left < 0xf000 || blue > 0x0fff || right < 0xf000 || red > 0x0fff {
				t.Errorf("%s: %v and %v", name, m.At(0, 0), m.At(test.w-1, test.h-1))
			}
		}
		h := res.Header
		if h.Get("Content-Type") != "image/png" || h.Get("Content-Security-Policy") != contentPolicy || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("ETag") != `"`+sum(body)+`"` || h.Get("Content-Disposition") != `inline; filename="`+name+`.png"` || h.Get("Cache-Control") != "private, no-cache, no-transform" {
			t.Errorf("%s: %v", name, h)
		}
		before := s.proxy.Requests.Load()
		if res, _ := s.do(t, "GET", "/api/v1/files/"+f.ID+"/preview?width=256", nil, "If-None-Match", h.Get("ETag")); res.StatusCode != 304 {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		if res, _ := s.do(t, "HEAD", "/api/v1/files/"+f.ID+"/preview", nil); res.StatusCode != 200 || res.ContentLength != int64(len(body)) {
			t.Errorf("%s: HEAD: %d %v", name, res.StatusCode, res.Header)
		}
		if n := s.proxy.Requests.Load() - before; n != 0 {
			t.Errorf("%s: the bucket was asked %d times", name, n)
		}
		if res, again := s.do(t, "GET", "/api/v1/files/"+f.ID+"/preview", nil); res.StatusCode != 200 || !bytes.Equal(again, body) || s.proxy.Requests.Load()-before != 1 {
			t.Errorf("%s: it is made once more: %d", name, s.proxy.Requests.Load()-before)
		}
		if _, err := s.PreviewFile(as(t, "other"), f.ID, 256); !errs.Is(err, errs.NotFound) {
			t.Errorf("another tenant: %v", err)
		}
	}
}

// What has no preview is refused at once, and once for all.
func TestPreviewRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{Stall: patience})
	s.work(t)
	whole := pngOf(t, painted(500, 500))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, test := range map[string]struct {
		content []byte
		says    string
	}{
		"bomb.png":  {bomb(60_000, 60_000), "too much memory"},
		"long.png":  {bomb(1, 2_000_000_000), "too much memory"},
		"cut.png":   {whole[:len(whole)/2], "no whole image"},
		"a.svg":     {[]byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`), "no JPEG"},
		"a.txt":     {[]byte("text"), "no JPEG"},
		"bad.jpg":   {append([]byte("\xff\xd8\xff\xe0"), random(1000)...), "no whole image"},
		"empty.png": {nil, "no JPEG"},
	} {
		f := s.upload(t, "acme", Upload{Filename: name, Size: int64(len(test.content)), DeclaredType: "image/png"}, test.content)
		for range 2 {
			res, text := s.do(t, "GET", "/api/v1/files/"+f.ID+"/preview", nil)
			wantError(t, res, text, 404, "not_found", test.says)
		}
	}
	if runtime.ReadMemStats(&after); after.Sys > before.Sys+256<<20 {
		t.Errorf("they took %d MiB", (after.Sys-before.Sys)>>20)
	}
	f := s.upload(t, "acme", Upload{Filename: "a", Size: int64(len(whole))}, whole)
	for _, width := range []string{"0", "-1", "257", "x", "100000"} {
		res, text := s.do(t, "GET", "/api/v1/files/"+f.ID+"/preview?width="+width, nil)
		wantError(t, res, text, 400, "invalid_argument", "width")
	}
	for _, id := range []string{"x", "0198c0de-0000-7000-8000-000000000001"} {
		res, text := s.do(t, "GET", "/api/v1/files/"+id+"/preview", nil)
		wantError(t, res, text, 404, "not_found", "")
	}
}

// A preview goes with its file, and a file that goes while it is made leaves none.
func TestPreviewGoesWithItsFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{Stall: patience})
	content := pngOf(t, painted(500, 500))
	f := s.upload(t, "acme", Upload{Filename: "a", Size: int64(len(content))}, content)
	s.proxy.Set(func(r *http.Request) blobtest.Fault {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "preview") { // It is deleted in between.
			s.exec(t, `UPDATE files SET state = 'deleting', due_at = now() + interval '1 hour'`)
		}
		return blobtest.Fault{}
	})
	if _, err := s.want(as(t, "acme"), f, 64); err != nil {
		t.Fatal(err)
	}
	s.workOffPreview(as(t, "acme"), f.ID, preview{width: 64})
	if keys, _ := s.objects(t); len(keys) != 1 {
		t.Errorf("%v are in the bucket", keys)
	}
	if _, found, err := selectPreview(as(t, "acme"), s.Service.db, f.ID, 64); found || err != nil {
		t.Error("a preview of nothing", err)
	}
	s.proxy.Set(nil)
	s.exec(t, `UPDATE files SET state = 'ready', due_at = 'infinity'`)
	s.work(t)
	for _, width := range PreviewWidths[:2] {
		if _, err := s.PreviewFile(as(t, "acme"), f.ID, width); err != nil {
			t.Fatal(err)
		}
	}
	if keys, _ := s.objects(t); len(keys) != 3 {
		t.Errorf("%v are in the bucket", keys)
	}
	if err := s.DeleteFile(as(t, "acme"), f.ID); err != nil {
		t.Fatal(err)
	}
	s.noTrace(t, "acme")
	eventually(t, "no row is left", func() bool {
		_, found, err := selectPreview(as(t, "acme"), s.Service.db, f.ID, 64)
		return err == nil && !found
	})
}

// What the bucket refuses is tried again; a preview that its worker dies of is not, for ever.
func TestPreviewFails(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{Stall: patience})
	content := pngOf(t, painted(50, 50))
	f := s.upload(t, "acme", Upload{Filename: "a", Size: int64(len(content))}, content)
	s.proxy.Set(func(*http.Request) blobtest.Fault { return blobtest.Fault{Status: 503, Body: slowDown} })
	if _, err := s.want(as(t, "acme"), f, 64); err != nil {
		t.Fatal(err)
	}
	state := func() (preview, time.Duration) {
		p, _, err := selectPreview(as(t, "acme"), s.Service.db, f.ID, 64)
		late, failed := selectPreviewsLate(t.Context(), s.system)
		if err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		return p, late
	}
	s.workOffPreview(as(t, "acme"), f.ID, preview{width: 64, attempts: previewAttempts})
	if p, late := state(); p.state != "wanted" || late > -30*time.Second {
		t.Errorf("%+v, due for %v", p, late)
	}
	s.proxy.Set(nil)
	s.exec(t, `UPDATE file_previews SET due_at = now(), attempts = $1`, previewAttempts) // As if as many workers had died.
	s.work(t)
	eventually(t, "it is refused", func() bool {
		p, _ := state()
		return p.state == "refused"
	})
	s.exec(t, `INSERT INTO file_previews (tenant, id, width, due_at) SELECT 'acme', gen_random_uuid(), 64, now() + interval '1 hour' FROM generate_series(1, $1::int)`, maxPreviews)
	res, text := s.do(t, "GET", "/api/v1/files/"+f.ID+"/preview?width=128", nil)
	wantError(t, res, text, 429, "resource_exhausted", "too many previews")
}

// exif is a JPEG of a camera that was held in some way.
func exif(t *testing.T, m image.Image, order binary.AppendByteOrder, mark string, orientation uint16) []byte {
	t.Helper()
	tiff := order.AppendUint32(order.AppendUint16([]byte(mark), 42), 8)
	tiff = order.AppendUint16(tiff, 1)
	tiff = order.AppendUint16(order.AppendUint32(order.AppendUint16(order.AppendUint16(tiff, 0x0112), 3), 1), orientation)
	tiff = append(tiff, 0, 0, 0, 0, 0, 0)
	data := append([]byte("Exif\x00\x00"), tiff...)
	head := binary.BigEndian.AppendUint16([]byte("\xff\xd8\xff\xe1"), uint16(len(data)+2))
	return append(append(head, data...), jpegOf(t, m)[2:]...)
}

// A photograph is upright, however the camera was held.
func TestPreviewIsUpright(t *testing.T) {
	t.Parallel()
	// Its top left quarter is white.
	upright := image.NewGray(image.Rect(0, 0, 64, 32))
	for y := range 16 {
		for x := range 32 {
			upright.SetGray(x, y, color.Gray{255})
		}
	}
	for orientation, corner := range map[uint16]image.Point{ // where the white is
		0: {0, 0}, 1: {0, 0}, 2: {1, 0}, 3: {1, 1}, 4: {0, 1}, 5: {0, 0}, 6: {1, 0}, 7: {1, 1}, 8: {0, 1}, 9: {0, 0},
	} {
		for mark, order := range map[string]binary.AppendByteOrder{"MM": binary.BigEndian, "II": binary.LittleEndian} {
			small, err := shrink(bytes.NewReader(exif(t, upright, order, mark, orientation)), 64)
			if err != nil {
				t.Fatal(err)
			}
			m, err := png.Decode(bytes.NewReader(small))
			if err != nil {
				t.Fatal(err)
			}
			w, h := m.Bounds().Dx(), m.Bounds().Dy()
			if (w < h) != (orientation >= 5 && orientation <= 8) {
				t.Errorf("%d: it has %v", orientation, m.Bounds())
			}
			for _, at := range []image.Point{{0, 0}, {1, 0}, {0, 1}, {1, 1}} {
				r, _, _, _ := m.At(at.X*(w-5)+2, at.Y*(h-5)+2).RGBA()
				if (r > 0x8000) != (at == corner) {
					t.Errorf("%d %s: the corner %v is %x", orientation, mark, at, r)
				}
			}
		}
	}
	for _, broken := range [][]byte{[]byte("\xff\xd8\xff\xe1\x00\x10Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"), []byte("\xff\xd8\xff\xe1\x00\x01"), []byte("\xff\xd8\xff")} {
		if got := orientation(broken); got != 1 {
			t.Errorf("%q is turned by %d", broken, got)
		}
	}
}
