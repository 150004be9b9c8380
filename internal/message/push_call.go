package message

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/outbound"
)

// maxAnswer is the most bytes of an answer's body that are read. An answer that breaks off before that is none.
const maxAnswer = 4 << 10

// request returns the call that pushes a message of a queue.
func (t *target) request(queue QueueName, m Message, now time.Time) outbound.Request {
	id := callID(m.ID)
	header := t.header.Clone()
	if kind := contentType(m); kind != "" || header.Get("Content-Type") == "" {
		header["Content-Type"] = []string{orByContent(kind, m.Body)}
	}
	cloudEvent(header, queue, id, m)
	header["Idempotency-Key"] = []string{id}
	return outbound.Request{
		Method: http.MethodPost, URL: t.url, Header: header, Body: m.Body, Timeout: t.timeout, MaxReply: maxAnswer, OwnBreaker: true,
		Webhook: &outbound.Webhook{ID: id, Secrets: t.sign(now)},
	}
}

// callID returns the id of a message as headers can have it. One that did not come from this service may have any id.
func callID(id string) string {
	if uuid.Validate(id) == nil {
		return id
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(id)).String()
}

// Attributes of a message that are attributes of its event of that meaning, and no extensions.
const (
	typeAttribute    = "type"
	sourceAttribute  = "source"
	contentAttribute = "datacontenttype"
)

const defaultType = "plinth.message"

// cloudEvent sets the headers of CloudEvents 1.0, binary mode.
func cloudEvent(header http.Header, queue QueueName, id string, m Message) {
	set := func(name, value string) { header[http.CanonicalHeaderKey("ce-"+name)] = []string{value} }
	set(typeAttribute, defaultType)
	set(sourceAttribute, "/queues/"+queue.name)
	for name, value := range m.Attributes {
		if isExtension(name) && value != "" {
			set(name, encoded(value))
		}
	}
	set("id", id)
	set("specversion", "1.0")
	if at := m.PublishedAt(); !at.IsZero() {
		set("time", at.Format(time.RFC3339Nano))
	}
}

// isExtension reports whether the specification allows the name of an attribute, and it is none that is set otherwise.
func isExtension(name string) bool {
	switch name {
	case "", "id", "specversion", "time", "data", contentAttribute:
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

// encoded returns a value as the HTTP binding of CloudEvents has it in a header: with what is not printable ASCII, the space, the quotation
// mark and the percent sign encoded.
func encoded(value string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// contentType returns the content type that a message names, "" if it names none that a header can have.
func contentType(m Message) string {
	kind := m.Attributes[contentAttribute]
	if strings.ContainsFunc(kind, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return ""
	}
	return strings.TrimSpace(kind)
}

// orByContent returns kind, or what the body is if that is empty.
func orByContent(kind string, body []byte) string {
	switch {
	case kind != "":
		return kind
	case json.Valid(body):
		return "application/json"
	case utf8.Valid(body):
		return "text/plain; charset=utf-8"
	default:
		return "application/octet-stream"
	}
}

// judged is what became of a call.
type judged struct {
	says   answer
	reject bool           // the message is not taken, whenever it comes
	after  *time.Duration // that an overloaded endpoint asks to wait; nil if it does not say
	err    error          // nil if the message was taken
}

// judge judges what a call came to. What errors have for the log alone, such as addresses, is left away: reasons are shown.
func judge(reply *outbound.Reply, err error) judged {
	switch {
	case errs.Is(err, errs.Canceled):
		return judged{says: saysNothing, err: err}
	case errs.Is(err, errs.DeadlineExceeded):
		return judged{says: saysTimeout, err: errs.New(errs.DeadlineExceeded, "%s", said(err))}
	case err != nil: // It may be another address tomorrow, so even one that is not allowed is tried again.
		return judged{says: saysFailing, err: errs.New(errs.Unavailable, "%s", said(err))}
	}
	j := judged{says: saysDeclined, err: errs.New(errs.Unavailable, "the answer was %s", statusText(reply.StatusCode))}
	switch status := reply.StatusCode; {
	case status >= 200 && status <= 299:
		return judged{says: saysTaken}
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		j.says = saysOverload
		if after, says := reply.RetryAfter(maxRetryAfter); says {
			j.after = &after
		}
	case status == http.StatusBadRequest, status == http.StatusNotFound, status == http.StatusGone, status == http.StatusUnprocessableEntity:
		j.reject = true
	case status == http.StatusGatewayTimeout:
		j.says = saysTimeout
	case status >= 500, status < 400: // A redirect is not followed, so it says the same of each message.
		j.says = saysFailing
	}
	return j
}

func statusText(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// said returns the message of an error, without its cause.
func said(err error) string {
	var known *errs.Error
	if errors.As(err, &known) {
		return known.Message
	}
	return "the call failed"
}

// send pushes a message, tells the endpoint what came of it, and returns what a handler would.
func (p *pusher) send(ctx context.Context, c *call, m Message) error {
	t := p.target.Load()
	start := time.Now()
	reply, err := p.worker.service.outbound.Do(ctx, t.request(p.queue, m, start))
	j := judge(reply, err)
	wait := c.told(j, time.Since(start))
	switch {
	case j.says == saysOverload:
		return Snooze(wait)
	case j.reject && !t.retryRejected:
		return errs.Permanent(j.err)
	default:
		return j.err
	}
}
