package file

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// HTTP serves what no proto route can: bodies and contents of files.
type HTTP struct{ service *Service }

// NewHTTP returns an HTTP.
func NewHTTP(service *Service) *HTTP { return &HTTP{service} }

// uploadQuery are the parameters of an upload. The first one may be in its path instead.
var uploadQuery = []string{"filename", "folder", "expire_time", "attributes."}

// Routes are the plain routes of files.
func (h *HTTP) Routes() []rpc.Route {
	route := func(pattern, scope string, serve func(http.ResponseWriter, *http.Request) error, query ...string) rpc.Route {
		return rpc.Route{Pattern: pattern, Scope: scope, Query: query, Stall: h.service.limits.Stall, Serve: serve}
	}
	return append(h.tusRoutes(),
		route("POST /api/v1/upload", "files.write", h.upload, uploadQuery...),
		route("PUT /api/v1/upload/{filename}", "files.write", h.upload, uploadQuery[1:]...),
		route("GET /api/v1/files/{id}/content", "files.read", h.content, "disposition", "filename"),
		route("HEAD /api/v1/files/{id}/content", "files.read", h.content, "disposition", "filename"),
		route("GET /api/v1/files/{id}/preview", "files.read", h.preview, "width"),
		route("HEAD /api/v1/files/{id}/preview", "files.read", h.preview, "width"),
	)
}

// upload stores the file of a form, or a body that is a file by itself and has its name in the query or in the path.
func (h *HTTP) upload(w http.ResponseWriter, r *http.Request) error {
	u, err := uploadFromHeader(r)
	if err != nil {
		return err
	}
	var body io.Reader = &clientBody{r.Body}
	if contentType := r.Header.Get("Content-Type"); r.Method == http.MethodPost && baseType(contentType) == "multipart/form-data" {
		form, err := readForm(contentType, body)
		if err != nil {
			return err
		}
		if err := u.takeForm(form, r.ContentLength); err != nil {
			return err
		}
		body = form.content
	} else if err := u.takeBody(r); err != nil {
		return err
	}
	f, err := h.service.UploadFile(r.Context(), u, body)
	if errs.Is(err, errs.ResourceExhausted) {
		return rpc.WithStatus(http.StatusRequestEntityTooLarge, err) // Clients try again after 429.
	}
	if err != nil {
		return err
	}
	text, err := protojson.Marshal(fileToProto(f))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Repr-Digest", digest(f.Checksum))
	_, err = w.Write(text)
	return err
}

// uploadFromHeader returns what a request says of a file besides its body.
func uploadFromHeader(r *http.Request) (u Upload, err error) {
	if err := checkEncoding(r.Header.Get("Content-Encoding")); err != nil {
		return u, err
	}
	if r.Header.Get("Content-Range") != "" {
		return u, errs.New(errs.InvalidArgument, "Content-Range: a part of a file is not allowed here; /api/v1/uploads takes parts (tus)")
	}
	query := r.URL.Query()
	u = Upload{
		Filename: r.PathValue("filename"), Folder: query.Get("folder"), DeclaredType: r.Header.Get("Content-Type"), Size: r.ContentLength,
		Attributes: map[string]string{}, IdempotencyKey: r.Header.Get("Idempotency-Key"),
	}
	if u.Filename == "" {
		u.Filename = query.Get("filename")
	}
	for name, values := range query {
		if key, ok := strings.CutPrefix(name, "attributes."); ok {
			u.Attributes[key] = values[0]
		}
	}
	if text := query.Get("expire_time"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return u, errs.New(errs.InvalidArgument, "expire_time: a time such as 2026-01-02T15:04:05Z is allowed")
		}
		if u.ExpiresAt, err = rpc.TimeFromProto("expire_time", timestamppb.New(at)); err != nil {
			return u, err
		}
	}
	if len(r.Header.Values("Idempotency-Key")) > 1 {
		return u, errs.New(errs.InvalidArgument, "Idempotency-Key: one header is allowed")
	}
	u.Checksum, err = parseDigest("Repr-Digest", r.Header)
	return u, err
}

// checkEncoding returns an error for the Content-Encoding of bytes that are not stored as they come.
func checkEncoding(coding string) error {
	if coding != "" && !strings.EqualFold(coding, "identity") {
		return errs.New(errs.InvalidArgument, "Content-Encoding: the bytes are stored as they come, so only identity is allowed")
	}
	return nil
}

// takeBody adds what a request says of a body that is a file by itself. Since it has no coding, both of its digests are the file's.
func (u *Upload) takeBody(r *http.Request) error {
	checksum, err := parseDigest("Content-Digest", r.Header)
	switch {
	case err != nil:
		return err
	case checksum != "" && u.Checksum != "" && checksum != u.Checksum:
		return errs.New(errs.InvalidArgument, "Content-Digest: another SHA-256 than in Repr-Digest is not allowed, since the body is the file")
	case checksum != "":
		u.Checksum = checksum
	}
	return nil
}

// takeForm adds what a form says of its file. length is that of the whole body, or unknown.
func (u *Upload) takeForm(f *form, length int64) error {
	if u.Filename == "" {
		u.Filename = f.filename
	}
	u.DeclaredType, u.Size = f.declared, unknown
	for key, value := range f.fields {
		u.Attributes[key] = value
	}
	if length == unknown {
		return nil
	}
	var ok bool
	if u.Size, u.Slack, ok = f.size(length); !ok {
		return errs.New(errs.InvalidArgument, "the form is broken: it ends within the file")
	}
	return nil
}

// parseDigest returns the SHA-256 of a header of RFC 9530 in hex; empty if there is none. Other algorithms are left alone.
func parseDigest(header string, h http.Header) (string, error) {
	for member := range strings.SplitSeq(strings.Join(h.Values(header), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(member), "=")
		if !strings.EqualFold(name, "sha-256") {
			continue
		}
		inner, ok := strings.CutPrefix(value, ":")
		inner, closed := strings.CutSuffix(inner, ":")
		sum, err := base64.StdEncoding.DecodeString(inner)
		if !ok || !closed || err != nil || len(sum) != 32 {
			return "", errs.New(errs.InvalidArgument, "%s: sha-256=:<base64 of 32 bytes>: is allowed", header)
		}
		return hex.EncodeToString(sum), nil
	}
	return "", nil
}

func digest(checksum string) string {
	sum, _ := hex.DecodeString(checksum) // It is from the row.
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum) + ":"
}

// clientBody is a body whose errors are the client's.
type clientBody struct{ body io.Reader }

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	var known *errs.Error
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &known) {
		return n, err
	}
	return n, errs.Wrap(err, errs.Canceled, "the upload broke off")
}

// contentPolicy is the Content-Security-Policy of contents: whatever they are, nothing in them runs, and nothing is loaded.
const contentPolicy = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"

// content serves the content of a file, or one range of it.
func (h *HTTP) content(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, errNoFile)
	if err != nil {
		return err
	}
	f, err := h.service.Readable(r.Context(), id)
	if err != nil {
		return err
	}
	shown, err := disposed(f, r.URL.Query().Get("disposition"), r.URL.Query().Get("filename"))
	if err != nil {
		return err
	}
	return h.serve(w, r, f, shown)
}

// pathID returns the id in the path of a request, or the error of missing for one that is no UUID as RPCs take it: PostgreSQL refuses
// some of its other forms.
func pathID(r *http.Request, missing func(id string) error) (string, error) {
	id := r.PathValue("id")
	if len(id) != len(uuid.Nil.String()) || uuid.Validate(id) != nil {
		return "", missing(id)
	}
	return id, nil
}

// serve serves the content of a file that may be read, with a Content-Disposition.
func (h *HTTP) serve(w http.ResponseWriter, r *http.Request, f File, shown string) error {
	etag, modified := `"`+f.Checksum+`"`, f.CreatedAt.UTC().Truncate(time.Second)
	header := w.Header()
	for name, value := range map[string]string{
		"ETag": etag, "Last-Modified": modified.Format(http.TimeFormat), "Cache-Control": "private, no-cache, no-transform",
	} {
		header.Set(name, value)
	}
	switch condition(r.Header, etag, modified) {
	case http.StatusNotModified:
		w.WriteHeader(http.StatusNotModified)
		return nil
	case http.StatusPreconditionFailed:
		return rpc.WithStatus(http.StatusPreconditionFailed,
			errs.New(errs.FailedPrecondition, "the file is not the one that If-Match or If-Unmodified-Since asks for"))
	}
	want, status := byteRange{0, f.Size}, http.StatusOK
	if text := r.Header.Get("Range"); text != "" && r.Method == http.MethodGet && wantsPart(r.Header, etag, modified) {
		part, ok := false, false
		if want, part, ok = parseRange(text, f.Size); !ok {
			header.Set("Content-Range", "bytes */"+strconv.FormatInt(f.Size, 10))
			return rpc.WithStatus(http.StatusRequestedRangeNotSatisfiable, errs.New(errs.InvalidArgument, "Range: the file has %d bytes", f.Size))
		}
		if part {
			status = http.StatusPartialContent
			header.Set("Content-Range", want.of(f.Size))
		}
	}
	for name, value := range map[string]string{
		"Accept-Ranges": "bytes", "Content-Type": f.ContentType, "Content-Disposition": shown, "Content-Security-Policy": contentPolicy,
		"X-Content-Type-Options": "nosniff", "Repr-Digest": digest(f.Checksum), "Content-Length": strconv.FormatInt(want.length, 10),
	} {
		header.Set(name, value)
	}
	if r.Method == http.MethodHead || want.length == 0 {
		w.WriteHeader(status)
		return nil
	}
	return h.send(w, r, f, want, status)
}

// send sends bytes of a file. The reply begins with the first of them: what fails before is answered like any error.
func (h *HTTP) send(w http.ResponseWriter, r *http.Request, f File, want byteRange, status int) error {
	begun := false
	err := h.service.DownloadFile(r.Context(), f, want.offset, want.length, func(chunk []byte) error {
		if !begun {
			w.WriteHeader(status)
			begun = true
		}
		_, err := w.Write(chunk)
		return err
	})
	if err != nil && !begun {
		for _, name := range []string{
			"ETag", "Last-Modified", "Cache-Control", "Content-Range", "Accept-Ranges", "Content-Disposition", "Repr-Digest", "Content-Length",
		} {
			w.Header().Del(name)
		}
	}
	return err
}

// disposed returns the Content-Disposition of a file. Only what cannot run is shown, whatever is asked for.
func disposed(f File, kind, name string) (string, error) {
	if name == "" {
		name = f.Filename
	}
	name, err := ParseName(name)
	if err != nil {
		return "", err
	}
	switch kind {
	case "inline":
		if !mayShow(f.ContentType) {
			kind = "attachment"
		}
	case "", "attachment":
		kind = "attachment"
	default:
		return "", errs.New(errs.InvalidArgument, "disposition: attachment and inline are allowed")
	}
	return disposition(kind, name), nil
}
