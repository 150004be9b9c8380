package file

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A body whose chunks are malformed is the client's mistake, which is told, and one that ends early is a client that went away. What came
// of a resumable upload before is kept.
func TestMalformedUploads(t *testing.T) {
	t.Parallel()
	s := newSite(t, resumable)
	name := "Upload-Metadata: " + metadata("filename", "a") + "\r\n"
	tus := "Tus-Resumable: 1.0.0\r\nContent-Type: " + tusBody + "\r\n"
	part := "--" + boundary + "\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
	for what, end := range map[string]struct{ text, reply, says string }{
		"malformed": {"zz\r\n", "HTTP/1.1 400", "the body is malformed"},
		"cut off":   {"5\r\nab", "HTTP/1.1 499", `"code":"canceled"`},
	} {
		path := s.begin(t, 100)
		for _, test := range []struct{ head, first string }{
			{"PUT /api/v1/upload/a HTTP/1.1\r\n", "first"},
			{"POST /api/v1/upload HTTP/1.1\r\nContent-Type: " + formType + "\r\n", part + "first"},
			{"POST /api/v1/upload HTTP/1.1\r\nContent-Type: " + formType + "\r\n", part[:40]},
			{"PATCH " + path + " HTTP/1.1\r\nUpload-Offset: 0\r\n" + tus, "first"},
			{"POST " + tusPath + " HTTP/1.1\r\nUpload-Length: 100\r\n" + name + tus, "first"},
		} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, err = fmt.Fprintf(conn, "%sHost: x\r\nAuthorization: Bearer x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s",
				test.head, len(test.first), test.first, end.text)
			if err == nil && what == "cut off" {
				err = conn.(*net.TCPConn).CloseWrite()
			}
			reply, _ := io.ReadAll(conn)
			_ = conn.Close()
			if text := string(reply); err != nil || !strings.HasPrefix(text, end.reply) || !strings.Contains(text, end.says) {
				t.Errorf("%s, %.30q: %q %v", what, test.head, text, err)
			}
		}
		if n := s.offset(t, path); n < len("first") {
			t.Errorf("%s: the upload is at %d", what, n)
		}
	}
}
