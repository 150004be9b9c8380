package app

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"plinth/api"
)

// The OpenAPI document is large: it comes compressed, and to whom has it, not at all.
func TestServeOpenAPI(t *testing.T) {
	t.Parallel()
	serve := serveOpenAPI()
	ask := func(name, value string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, "/openapi.yaml", nil)
		r.Header.Set(name, value)
		w := httptest.NewRecorder()
		if err := serve(w, r); err != nil {
			t.Fatal(err)
		}
		return w.Result()
	}
	plain := ask("Accept", "*/*")
	if body, _ := io.ReadAll(plain.Body); !bytes.Equal(body, api.OpenAPI) || plain.Header.Get("Content-Type") != "application/yaml" {
		t.Errorf("it has %d bytes and the header %v", len(body), plain.Header)
	}
	packed := ask("Accept-Encoding", "gzip, br")
	body, _ := io.ReadAll(packed.Body)
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if unpacked, _ := io.ReadAll(r); !bytes.Equal(unpacked, api.OpenAPI) || len(body) > len(api.OpenAPI)/4 {
		t.Errorf("compressed it has %d bytes, and unpacked %d", len(body), len(unpacked))
	}
	if tag := plain.Header.Get("ETag"); tag == "" || tag == packed.Header.Get("ETag") || ask("If-None-Match", tag).StatusCode != http.StatusNotModified {
		t.Errorf("the ETags are %q and %q", tag, packed.Header.Get("ETag"))
	}
}
