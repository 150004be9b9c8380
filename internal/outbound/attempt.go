package outbound

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/observe"
)

// attempt makes one attempt of a call, if the breaker lets it, and counts it.
func (c *Client) attempt(ctx context.Context, r Request) (*Reply, error) {
	host := strings.ToLower(r.URL.Host)
	breaker := c.breakers.of(auth.TenantOf(ctx), host)
	start := time.Now()
	if !r.OwnBreaker && !breaker.TryAcquirePermit() {
		c.metrics.count(host, "breaker_open", 0)
		return nil, errs.New(errs.Unavailable, "%s: calls failed lately; it is left alone for a while", host).
			Because(breakerOpen).After(breaker.RemainingDelay())
	}
	timed, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	timed, step := observe.Begin(timed, observe.Outbound, r.Method)
	reply, err := c.follow(timed, r)
	if err != nil {
		err = cause(ctx, err, r.URL)
	}
	result, says := judge(reply, err)
	step.Describe(attribute.String("http.request.method", r.Method), attribute.String("server.address", host), attribute.String("plinth.result", result))
	problem := ""
	if err != nil || says == failed {
		problem = result
	}
	step.End(problem)
	if !r.OwnBreaker {
		breaker.settle(says)
	}
	c.metrics.count(host, result, time.Since(start))
	return reply, err
}

// judge returns the result of an attempt for the metrics, and what it says about the host.
func judge(reply *Reply, err error) (result string, says outcome) {
	var e *errs.Error
	switch {
	case err == nil && isAway(reply.StatusCode):
		return statusClass(reply.StatusCode), failed
	case err == nil:
		return statusClass(reply.StatusCode), succeeded
	case errs.Is(err, errs.DeadlineExceeded):
		return "timeout", failed
	case errs.Is(err, errs.Canceled):
		return "canceled", unknown
	case errors.As(err, &e) && e.Reason == addressRefused:
		return "refused", unknown
	case errs.Is(err, errs.InvalidArgument):
		return "invalid", unknown
	default:
		return "error", failed
	}
}

func statusClass(status int) string { return strconv.Itoa(status/100) + "xx" }

// follow sends a request, and again to where redirects lead that are to be followed.
func (c *Client) follow(ctx context.Context, r Request) (*Reply, error) {
	target, header := r.URL, r.Header
	for redirects := 0; ; redirects++ {
		response, err := c.send(ctx, r, target, header)
		if err != nil {
			return nil, err
		}
		if redirects >= r.Redirects || !leadsOn(r, response) {
			return read(response, r.MaxReply)
		}
		_ = response.Body.Close()
		next, err := c.redirected(target, response.Header.Get("Location"))
		if err != nil {
			return nil, err
		}
		if next.Host != target.Host {
			header = nil
		}
		target = next
	}
}

// leadsOn reports whether a reply is a redirect that may be followed: that of a request that only reads.
func leadsOn(r Request, response *http.Response) bool {
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return (r.Method == http.MethodGet || r.Method == http.MethodHead) && len(r.Body) == 0 && r.Webhook == nil && response.Header.Get("Location") != ""
	default:
		return false
	}
}

// redirected returns where a redirect leads. It is checked as the URL of a request is, and must not leave https.
func (c *Client) redirected(from *url.URL, location string) (*url.URL, error) {
	relative, err := url.Parse(location)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s: redirects to what is not a URL", from.Host)
	}
	next := from.ResolveReference(relative)
	next.Fragment, next.RawFragment = "", ""
	if from.Scheme == "https" && next.Scheme != "https" {
		return nil, errs.New(errs.InvalidArgument, "%s: redirects from https to %s", from.Host, errs.Shortened(next.Scheme, 16))
	}
	return c.ParseURL(from.Host+": redirect", next.String())
}

func (c *Client) send(ctx context.Context, r Request, target *url.URL, header http.Header) (*http.Response, error) {
	if err := c.guard.checkHost(target.Hostname()); err != nil { // With a proxy nobody else does.
		return nil, err
	}
	request := (&http.Request{
		Method: r.Method, URL: target, Host: target.Host, Header: header.Clone(), ContentLength: int64(len(r.Body)),
	}).WithContext(ctx)
	if request.Header == nil {
		request.Header = http.Header{}
	}
	if len(r.Body) > 0 {
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
		request.Body, _ = request.GetBody()
	}
	if r.Webhook != nil {
		r.Webhook.sign(request.Header, time.Now(), r.Body)
	}
	if parent, state := observe.Trace(ctx); parent != "" {
		request.Header["Traceparent"] = []string{parent}
		if state != "" {
			request.Header["Tracestate"] = []string{state}
		}
	}
	if request.Header["User-Agent"] == nil {
		request.Header["User-Agent"] = []string{"plinth"}
	}
	return c.transport.RoundTrip(request)
}

// read returns the reply with as much of its body as is to be kept.
func read(response *http.Response, most int64) (*Reply, error) {
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusSwitchingProtocols { // Nobody asked for that. What follows is no body, and no deadline ends it.
		return &Reply{StatusCode: response.StatusCode, Header: response.Header}, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	if err != nil {
		return nil, err
	}
	reply := &Reply{StatusCode: response.StatusCode, Header: response.Header, Body: body}
	if int64(len(body)) > most {
		reply.Body, reply.Truncated = body[:most], true
	}
	return reply, nil
}
