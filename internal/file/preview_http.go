package file

import (
	"net/http"
	"strconv"

	"plinth/internal/errs"
)

// defaultPreview is the width of a preview that nobody chose.
const defaultPreview = 256

// preview serves a small picture of a file, as content does the file.
func (h *HTTP) preview(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, errNoFile)
	if err != nil {
		return err
	}
	width := defaultPreview
	if text := r.URL.Query().Get("width"); text != "" {
		if width, err = strconv.Atoi(text); err != nil {
			return errs.New(errs.InvalidArgument, "width: one of %v is allowed", PreviewWidths)
		}
	}
	f, err := h.service.PreviewFile(r.Context(), id, width)
	if err != nil {
		return err
	}
	return h.serve(w, r, f, disposition("inline", f.Filename))
}
