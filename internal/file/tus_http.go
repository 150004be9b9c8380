package file

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // The protocol demands it. It finds damage, and proves nothing.
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"net/http"
	"strconv"
	"strings"

	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// tus 1.0.0 (https://tus.io/protocols/resumable-upload): its core, and the extensions below. Concatenation is not among them.
const (
	tusVersion    = "1.0.0"
	tusExtensions = "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum"
	tusAlgorithms = "sha1,sha256"
	tusPath       = "/api/v1/uploads"
	tusBody       = "application/offset+octet-stream"

	statusChecksumMismatch = 460 // of tus
)

// tusRoutes are the routes of uploads that can be continued.
func (h *HTTP) tusRoutes() []rpc.Route {
	var routes []rpc.Route
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"OPTIONS " + tusPath:           h.tusOptions,
		"POST " + tusPath:              h.tusVersioned(h.tusCreate),
		"OPTIONS " + tusPath + "/{id}": h.tusOptions,
		"HEAD " + tusPath + "/{id}":    h.tusVersioned(h.tusHead),
		"PATCH " + tusPath + "/{id}":   h.tusVersioned(h.tusPatch),
		"DELETE " + tusPath + "/{id}":  h.tusVersioned(h.tusDelete),
		"POST " + tusPath + "/{id}":    h.tusVersioned(h.tusOverride),
	} {
		var query []string
		if pattern == "POST "+tusPath {
			query = uploadQuery
		}
		routes = append(routes, rpc.Route{
			Pattern: pattern, Scope: "files.write", Query: query, Stall: h.service.limits.Stall, Header: map[string]string{"Tus-Resumable": tusVersion}, Serve: serve,
		})
	}
	return routes
}

// tusVersioned serves requests in the version of the protocol that this is, for ids that can be any.
func (h *HTTP) tusVersioned(serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Header.Get("Tus-Resumable") != tusVersion {
			w.Header().Set("Tus-Version", tusVersion)
			return rpc.WithStatus(http.StatusPreconditionFailed, errs.New(errs.FailedPrecondition, "Tus-Resumable: %s is allowed", tusVersion))
		}
		if uploadID(r) != "" {
			if _, err := pathID(r, errNoUpload); err != nil {
				return err
			}
		}
		return tusError(serve(w, r))
	}
}

func uploadID(r *http.Request) string { return r.PathValue("id") }

// tusError returns an error with the status that tus has for it.
func tusError(err error) error {
	switch {
	case errors.Is(err, errBadSum):
		return rpc.WithStatus(statusChecksumMismatch, err)
	case errors.Is(err, errUploadGone):
		return rpc.WithStatus(http.StatusGone, err)
	case errors.Is(err, errUploadBusy):
		return rpc.WithStatus(http.StatusLocked, err)
	case errs.Is(err, errs.FailedPrecondition):
		return rpc.WithStatus(http.StatusConflict, err)
	case errors.Is(err, errPastEnd), errs.Is(err, errs.ResourceExhausted): // Clients try again after 429.
		return rpc.WithStatus(http.StatusRequestEntityTooLarge, err)
	}
	return err
}

func (h *HTTP) tusOptions(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	header.Set("Tus-Version", tusVersion)
	header.Set("Tus-Extension", tusExtensions)
	header.Set("Tus-Checksum-Algorithm", tusAlgorithms)
	header.Set("Tus-Max-Size", strconv.FormatInt(h.service.MaxResumable(r.Context()), 10))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tusCreate begins an upload. A body is its first bytes, or all.
func (h *HTTP) tusCreate(w http.ResponseWriter, r *http.Request) error {
	u, err := uploadFromTus(r)
	if err != nil {
		return err
	}
	brings := r.ContentLength != 0
	var first Append
	if brings {
		if first, err = appendFrom(r); err != nil {
			return err
		}
		if u.Size != unknown && first.Size > u.Size {
			return errPastEnd
		}
	}
	up, err := h.service.CreateResumable(r.Context(), u, uploadMetadata(r))
	if err != nil {
		return err
	}
	if !up.File.Duplicate && (brings || u.Size == 0) {
		first.Length = unknown
		id := up.File.ID
		if up, err = h.tusAppend(r, id, first); err != nil {
			if !errs.Is(err, errs.Canceled) { // Nobody will ever know of it. A client that is gone may have an idempotency key.
				_ = h.service.EndResumable(r.Context(), id)
			}
			return err
		}
	}
	w.Header().Set("Location", tusPath+"/"+up.File.ID)
	if brings {
		w.Header().Set("Upload-Offset", strconv.FormatInt(up.Received, 10))
	}
	tusExpires(w, up)
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (h *HTTP) tusHead(w http.ResponseWriter, r *http.Request) error {
	up, err := h.service.GetResumable(r.Context(), uploadID(r))
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Upload-Offset", strconv.FormatInt(up.Received, 10))
	if up.Length == unknown {
		header.Set("Upload-Defer-Length", "1")
	} else {
		header.Set("Upload-Length", strconv.FormatInt(up.Length, 10))
	}
	if up.Metadata != "" {
		header.Set("Upload-Metadata", up.Metadata)
	}
	tusExpires(w, up)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (h *HTTP) tusPatch(w http.ResponseWriter, r *http.Request) error {
	a, err := appendFrom(r)
	if err != nil {
		return err
	}
	if a.Offset, err = count(r, "Upload-Offset"); err != nil {
		return err
	}
	if a.Length = unknown; r.Header.Get("Upload-Length") != "" {
		if a.Length, err = count(r, "Upload-Length"); err != nil {
			return err
		}
	}
	up, err := h.tusAppend(r, uploadID(r), a)
	if err != nil {
		return err
	}
	w.Header().Set("Upload-Offset", strconv.FormatInt(up.Received, 10))
	tusExpires(w, up)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *HTTP) tusDelete(w http.ResponseWriter, r *http.Request) error {
	if err := h.service.EndResumable(r.Context(), uploadID(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tusOverride serves clients that can only send POST.
func (h *HTTP) tusOverride(w http.ResponseWriter, r *http.Request) error {
	switch strings.ToUpper(r.Header.Get("X-HTTP-Method-Override")) {
	case http.MethodHead:
		return h.tusHead(w, r)
	case http.MethodPatch:
		return h.tusPatch(w, r)
	case http.MethodDelete:
		return h.tusDelete(w, r)
	}
	return errs.New(errs.InvalidArgument, "X-HTTP-Method-Override: HEAD, PATCH and DELETE are allowed")
}

// tusExpires says until when an upload that is not complete can be continued.
func tusExpires(w http.ResponseWriter, up Resumable) {
	if !up.done() {
		w.Header().Set("Upload-Expires", up.ExpiresAt.UTC().Format(http.TimeFormat))
	}
}

var errUploadMoves = errs.New(errs.Unavailable, "this server stops, or the request is too old; ask for the offset and go on from there")

// tusAppend adds the body of a request. What came of it is kept where the process stops meanwhile, so that another one goes on.
func (h *HTTP) tusAppend(r *http.Request, id string, a Append) (Resumable, error) {
	ctx := r.Context()
	a.Stop = func(why error) { rpc.End(ctx, why) }
	defer context.AfterFunc(rpc.Finishing(ctx), func() { a.Stop(errUploadMoves) })()
	return h.service.Append(ctx, id, a, &clientBody{r.Body})
}

// appendFrom returns what a request says of the bytes in its body.
func appendFrom(r *http.Request) (a Append, err error) {
	if baseType(r.Header.Get("Content-Type")) != tusBody {
		return a, rpc.WithStatus(http.StatusUnsupportedMediaType, errs.New(errs.InvalidArgument, "Content-Type: %s is allowed", tusBody))
	}
	if err := checkEncoding(r.Header.Get("Content-Encoding")); err != nil {
		return a, err
	}
	a.Size = r.ContentLength
	text := r.Header.Get("Upload-Checksum")
	if text == "" {
		return a, nil
	}
	name, encoded, _ := strings.Cut(text, " ")
	algorithm, ok := map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New}[name]
	if ok {
		a.Digest = algorithm()
		a.Sum, err = base64.StdEncoding.DecodeString(encoded)
	}
	if !ok || err != nil || len(a.Sum) != a.Digest.Size() {
		return a, errs.New(errs.InvalidArgument, "Upload-Checksum: one of %s, a space and a checksum in base64 are allowed", tusAlgorithms)
	}
	return a, nil
}

// count returns a header that is a number of bytes.
func count(r *http.Request, name string) (int64, error) {
	text := r.Header.Get(name)
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || len(r.Header.Values(name)) != 1 || text[0] == '+' {
		return 0, errs.New(errs.InvalidArgument, "%s: a number of bytes is needed", name)
	}
	return int64(n), nil
}

// uploadFromTus returns what the headers and the query of a request say of an upload. What its metadata says counts before the query:
// the filename and the type, and all else are attributes.
func uploadFromTus(r *http.Request) (u Upload, err error) {
	if u, err = uploadFromHeader(r); err != nil {
		return u, err
	}
	u.DeclaredType = ""
	defers := r.Header.Get("Upload-Defer-Length")
	switch {
	case r.Header.Get("Upload-Concat") != "":
		return u, errs.New(errs.InvalidArgument, "Upload-Concat: uploads cannot be put together here")
	case defers != "" && (defers != "1" || r.Header.Get("Upload-Length") != ""):
		return u, errs.New(errs.InvalidArgument, "Upload-Defer-Length: 1 is allowed, without Upload-Length")
	case defers != "":
		u.Size = unknown
	default:
		if u.Size, err = count(r, "Upload-Length"); err != nil {
			return u, err
		}
	}
	if err := u.takeMetadata(uploadMetadata(r)); err != nil {
		return u, err
	}
	u.Filename = cmp.Or(u.Filename, unnamed)
	return u, nil
}

// unnamed is the filename of an upload whose client names none: metadata is optional in tus.
const unnamed = "upload"

// uploadMetadata returns the Upload-Metadata of a request, as one list.
func uploadMetadata(r *http.Request) string {
	return strings.Join(r.Header.Values("Upload-Metadata"), ",")
}

// takeMetadata adds what Upload-Metadata says. Clients name the filename and the type in two ways.
func (u *Upload) takeMetadata(text string) error {
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		key, encoded, _ := strings.Cut(strings.TrimSpace(pair), " ")
		if key == "" {
			continue
		}
		value, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil || seen[key] {
			return errs.New(errs.InvalidArgument, "Upload-Metadata: %.64q: a key comes once, with its value in base64", key)
		}
		seen[key] = true
		switch {
		case key == "filename", key == "name" && !seen["filename"]:
			u.Filename = string(value)
		case key == "filetype", key == "type" && !seen["filetype"]:
			u.DeclaredType = string(value)
		case key == "name", key == "type":
		default:
			u.Attributes[key] = string(value)
		}
	}
	return nil
}
