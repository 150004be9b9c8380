package app

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"plinth/internal/rpc"
)

// staticFile is a file as it is served: it stays the same as long as the process runs.
type staticFile struct {
	contentType string
	content     []byte
	etag        string        // without quotes; that of the compressed content ends in -gzip
	compressed  func() []byte // nil where that is no smaller
}

func newStaticFile(contentType string, content []byte) *staticFile {
	sum := sha256.Sum256(content)
	return &staticFile{
		contentType: contentType,
		content:     content,
		etag:        hex.EncodeToString(sum[:10]),
		compressed: sync.OnceValue(func() []byte {
			var b bytes.Buffer
			w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // The level is valid, and a Buffer takes every write.
			_, _ = w.Write(content)
			_ = w.Close()
			if b.Len() >= len(content) {
				return nil
			}
			return b.Bytes()
		}),
	}
}

// serve serves a file, compressed if the client takes that.
func (f *staticFile) serve(w http.ResponseWriter, r *http.Request) {
	content, etag := f.content, `"`+f.etag+`"`
	w.Header().Add("Vary", "Accept-Encoding")
	if takesGzip(r.Header) {
		if small := f.compressed(); small != nil {
			content, etag = small, `"`+f.etag+`-gzip"`
			w.Header().Set("Content-Encoding", "gzip")
		}
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Content-Type", f.contentType)
	if tags, ok := rpc.ParseTags(r.Header.Values("If-None-Match")); ok && tags.Has(etag, true) {
		w.Header().Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content) // Whether the client still reads is in the log line of the request.
}

// takesGzip reports whether Accept-Encoding names gzip, and does not refuse it.
func takesGzip(h http.Header) bool {
	for coding := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, quality, _ := strings.Cut(coding, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			weight, _ := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(quality), " ", ""), "q=")
			value, err := strconv.ParseFloat(weight, 64)
			return err != nil || value > 0
		}
	}
	return false
}
