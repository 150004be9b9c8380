package schedule

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"plinth/internal/errs"
	"plinth/internal/outbound"
)

// maxAnswer is the most bytes of an answer's body that a run keeps.
const maxAnswer = 4 << 10

// check validates an HTTP request. Errors: InvalidArgument, PermissionDenied for a network that is not allowed.
func (h *HTTP) check(client *outbound.Client) error {
	if _, err := h.request(client); err != nil {
		return err
	}
	return checkTemplate("http.body", h.Body)
}

// request returns the request without what depends on a run.
func (h *HTTP) request(client *outbound.Client) (r outbound.Request, err error) {
	r = outbound.Request{Method: cmp.Or(h.Method, http.MethodPost), MaxReply: maxAnswer}
	if r.URL, err = client.ParseURL("http.url", h.URL); err != nil {
		return r, err
	}
	if r.Header, err = outbound.ParseHeaders("http.headers", h.Headers); err != nil {
		return r, err
	}
	r.Webhook = &outbound.Webhook{}
	if h.Secret != "" {
		secret, err := outbound.ParseSecret("http.signing_secret", h.Secret)
		if err != nil {
			return r, err
		}
		r.Webhook.Secrets = []outbound.Secret{secret}
	}
	return r, nil
}

// succeeded reports whether an answer is what the request was for.
func (h *HTTP) succeeded(status int) bool {
	if len(h.Success) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.Contains(h.Success, status)
}

// send sends the request of a run, and keeps the answer with it.
func (s *Service) send(ctx context.Context, r *Run) error {
	action, err := s.open(r.tenant, r.action)
	if err != nil {
		return err
	}
	h := action.HTTP
	request, err := h.request(s.outbound)
	if err != nil {
		return err
	}
	request.Webhook.ID, request.Timeout = r.ID, r.schedule.AttemptTimeout
	if h.Body != "" {
		request.Body = []byte(fill(h.Body, r.values()))
	}
	reply, err := s.outbound.Do(ctx, request)
	if err != nil {
		return err
	}
	r.HTTP = &Answer{Status: reply.StatusCode, Body: reply.Body}
	switch status := reply.StatusCode; {
	case h.succeeded(status):
		return nil
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return errs.New(errs.Unavailable, "the answer was %d", status)
	default: // The same request would be answered in the same way.
		return errs.New(errs.FailedPrecondition, "the answer was %d", status)
	}
}
