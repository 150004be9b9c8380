package rpc

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"
)

// Service is an RPC service: the path that it is mounted on, and its handler.
type Service struct {
	Path    string
	Handler http.Handler
}

// Mount returns the result of a generated New…Handler as a Service.
func Mount(path string, handler http.Handler) Service { return Service{path, handler} }

// REST returns a handler for the routes in the protos of services. It is mounted beside their RPC paths, not over them, so
// that Connect handles those directly. Unknown query parameters are ignored, like unknown fields.
func REST(services []Service) (http.Handler, error) {
	var transcoded []*vanguard.Service
	for _, s := range services {
		transcoded = append(transcoded, vanguard.NewService(s.Path, s.Handler,
			vanguard.WithMaxMessageBufferBytes(maxJSONBytes),
			vanguard.WithRESTUnmarshalOptions(vanguard.RESTUnmarshalOptions{DiscardUnknownQueryParams: true})))
	}
	transcoder, err := vanguard.NewTranscoder(transcoded, vanguard.WithCompression(vanguard.CompressionGzip,
		func() connect.Compressor { return gzip.NewWriter(io.Discard) }, func() connect.Decompressor { return &unpacker{} }))
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxMessageBytes)
		transcoder.ServeHTTP(w, r)
	}), nil
}

// maxJSONBytes leaves room for the JSON form of a reply, in which bytes are base64 and characters may be escaped.
const maxJSONBytes = 2 * MaxMessageBytes

// unpacker reads gzip, up to the size limit of a message. The transcoding only limits the compressed size, and the content
// may be a thousand times as large.
type unpacker struct {
	gzip.Reader
	left int
}

func (u *unpacker) Reset(r io.Reader) error {
	u.left = MaxMessageBytes
	return u.Reader.Reset(r)
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if u.left -= n; u.left < 0 {
		return 0, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the message is larger than %d bytes once it is unpacked", MaxMessageBytes))
	}
	return n, err
}
