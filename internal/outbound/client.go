package outbound

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/errs"
)

// Limits of connections and replies.
const (
	dialTimeout    = 10 * time.Second
	maxHostConns   = 512 // to a host; who calls bounds its calls, and those of one must not have others wait
	maxIdleConns   = 256
	maxHostIdle    = 8
	idleTimeout    = 90 * time.Second
	maxReplyHeader = 64 << 10
)

// Client calls out. It may be used concurrently.
type Client struct {
	guard     guard
	transport *http.Transport
	timeout   time.Duration
	breakers  *breakers
	budget    budget.Budget
	metrics   *metrics
}

// Config configures a Client.
type Config struct {
	Allowed  []netip.Prefix // networks that may be called although they are not public
	Proxy    *url.URL       // nil is none
	Timeout  time.Duration  // most time of an attempt
	Resolver *net.Resolver  // nil is that of the machine
	TLS      *tls.Config    // nil is Go's default, with the certificates of the machine
}

// New returns a Client. Close ends it.
func New(c Config) *Client {
	client := &Client{
		guard: guard{c.Allowed}, timeout: c.Timeout, breakers: newBreakers(), metrics: newMetrics(),
		budget: budget.NewBuilder().WithMaxRate(0.1).WithMinConcurrency(3).Build(),
	}
	dialer := &net.Dialer{Timeout: dialTimeout, Resolver: c.Resolver, Control: client.guard.control}
	proxy := http.ProxyURL(c.Proxy)
	if c.Proxy == nil {
		proxy = nil
	} else {
		dialer.Control = nil // Who set the proxy may put it anywhere, and nothing else is connected to.
	}
	client.transport = &http.Transport{
		Proxy: proxy, DialContext: dialer.DialContext, TLSClientConfig: c.TLS, TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true,
		DisableCompression: true, MaxConnsPerHost: maxHostConns, MaxIdleConns: maxIdleConns, MaxIdleConnsPerHost: maxHostIdle,
		IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxReplyHeader, ExpectContinueTimeout: time.Second,
	}
	return client
}

// Metrics returns the client's metrics.
func (c *Client) Metrics() []prometheus.Collector {
	return []prometheus.Collector{c.metrics.calls, c.metrics.seconds, c.breakers.metrics()}
}

// Timeout returns the most time of an attempt.
func (c *Client) Timeout() time.Duration { return c.timeout }

// Close closes the connections that are idle.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Request is a call.
type Request struct {
	Method  string
	URL     *url.URL // of ParseURL
	Header  http.Header
	Body    []byte        // MaxBody at most
	Webhook *Webhook      // nil is none
	Timeout time.Duration // most time of an attempt, below that of the client; 0 is the client's

	// MaxReply is the most bytes of the reply's body that are kept; 0 keeps none.
	MaxReply int64
	// Redirects is the most redirects that are followed, of GET and HEAD; the last reply is returned where there are more. Header
	// fields are sent to the first host alone.
	Redirects int
	Retry     Retry
	// OwnBreaker says that the caller holds back by itself: the breaker of the host neither refuses the call nor learns of it.
	OwnBreaker bool
}

// Retry says how a call is retried: after errors that errs.Retryable reports, and after the statuses 429, 502, 503 and 504. It is for
// calls that may be made twice. A reply's Retry-After is waited for, up to MaxBackoff.
type Retry struct {
	Attempts               int // 0 and 1 are no retries
	MinBackoff, MaxBackoff time.Duration
}

// Reply is what a host answered.
type Reply struct {
	StatusCode int
	Header     http.Header
	Body       []byte
	Truncated  bool // the body had more than MaxReply bytes
	Attempts   int
}

// Do makes a call for the tenant of its context. The documentation of the package has the errors.
func (c *Client) Do(ctx context.Context, r Request) (*Reply, error) {
	if len(r.Body) > MaxBody {
		return nil, errs.New(errs.InvalidArgument, "the body of the request has %d bytes, at most %d are allowed", len(r.Body), MaxBody)
	}
	if r.Timeout <= 0 || r.Timeout > c.timeout {
		r.Timeout = c.timeout
	}
	if r.Retry.Attempts <= 1 {
		reply, err := c.attempt(ctx, r)
		if err == nil {
			reply.Attempts = 1
		}
		return reply, err
	}
	return c.retry(ctx, r)
}
