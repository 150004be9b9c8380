package e2e

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"plinth/internal/blob/blobtest"
)

// A page of another origin uploads by tus, stops, is loaded again, and goes on.
func TestPageUsesTus(t *testing.T) {
	t.Parallel()
	chromium := tool(t, "chromium", "chromium-browser", "google-chrome")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<!DOCTYPE html>")) }))
	defer page.Close()
	r := tusReplicas{bucket: blobtest.New(t)}
	server := start(t, "server", with(with(backends(t, "postgres"), r.bucket.Env()), map[string]string{"CORS_ALLOWED_ORIGINS": page.URL}))
	url := "http://" + server.address(t)
	ready(t, url)
	content := make([]byte, 9<<20+7)
	for i := range content {
		content[i] = byte(i % 251)
	}
	var got []struct {
		Location string
		From     int
	}
	driver := node(t, "tus-browser.mjs", "tus-js-client", chromium, page.URL, url, strconv.Itoa(len(content)))
	driver.Env = append(driver.Env, "HOME="+t.TempDir())
	output(t, driver, &got)
	if len(got) != 2 || got[0].Location != got[1].Location || got[0].From >= 4<<20 || got[1].From < 4<<20 {
		t.Fatalf("%+v", got)
	}
	r.wantUploaded(t, url, strings.TrimPrefix(got[1].Location, url), content)
}

// The server and the worker make a preview of an image, and none of what is no image.
func TestPreviewOfUpload(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, with(backends(t, "postgres"), blobtest.New(t).Env()))
	c := filesOf{http: http1(t), url: sys.url}
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 400, 100))); err != nil {
		t.Fatal(err)
	}
	preview := func(name string, content []byte, query string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "PUT", sys.url+"/api/v1/upload/"+name, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.answered(req)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.http.Get(sys.url + "/api/v1/files/" + f.GetId() + "/preview" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, text
	}
	res, text := preview("a.png", picture.Bytes(), "?width=64")
	m, err := png.Decode(bytes.NewReader(text))
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "image/png" || m.Bounds().Dx() != 64 || m.Bounds().Dy() != 16 {
		t.Errorf("%d %v %.100q %v", res.StatusCode, res.Header, text, err)
	}
	for query, want := range map[string]int{"": 404, "?width=63": 400} {
		if res, text := preview("b.png", []byte("<svg xmlns='http://www.w3.org/2000/svg'/>"), query); res.StatusCode != want {
			t.Errorf("%q: %d %s", query, res.StatusCode, text)
		}
	}
}
