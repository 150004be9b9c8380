package outbound_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/outbound"
	"plinth/internal/outbound/outboundtest"
)

// TestParseURL refuses what must not be called at once, and names the field.
func TestParseURL(t *testing.T) {
	t.Parallel()
	client := newClient(t, "10.1.0.0/16")
	for _, good := range []string{
		"https://example.com", "http://example.com:8080/a?b=c%20d", "https://[2606:4700::1111]/", "https://8.8.8.8/", "http://10.1.2.3/",
		"https://xn--bcher-kva.example/", "https://EXAMPLE.com./x", "https://bücher.example/",
		"https://a_b/", "https://" + strings.Repeat("a", 63) + "." + strings.Repeat("a.", 93) + "com./",
	} {
		if _, err := client.ParseURL("url", good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, part := range map[string]string{
		"":                             "not a URL",
		"example.com/path":             "not a URL",
		"https:///path":                "not a URL",
		"https:example.com":            "not a URL",
		"https://exa mple.com":         "not a URL",
		"https://example.com/a\nb":     "not a URL",
		"https://:443/":                "not a URL",
		"ftp://example.com/":           "https://",
		"file://host/etc/passwd":       "https://",
		"https://user:pw@example.com/": "user or a password",
		"https://@example.com/":        "user or a password",
		"https://example.com/#part":    "fragment",
		"https://example.com/#":        "fragment",
		"https://example.com:0/":       "1-65535",
		"https://example.com:65536/":   "1-65535",
		"https://example.com/" + strings.Repeat("x", 2048):     "2048",
		"http://" + strings.Repeat("a", 64) + ".example/":      "neither a name nor an address",
		"http://" + strings.Repeat("a.", 125) + "comm/":        "neither a name nor an address",
		"http://" + strings.Repeat("bücher.", 30) + "example/": "neither a name nor an address",
		"http://localhost/":                       "loopback",
		"http://LOCALHOST./":                      "loopback",
		"http://a.localhost:80/":                  "loopback",
		"http://127.0.0.1/":                       "loopback",
		"http://１２７.0.0.１/":                       "loopback",
		"http://ⓛocalhost/":                       "loopback",
		"http://169。254。169。254/":                 "link-local",
		"http://127.0.0.１x。２/":                    "neither a name nor an address",
		"http://a\u00ad\u2024b\ufffd.example/":    "neither a name nor an address",
		"http://example..com/":                    "neither a name nor an address",
		"http://.example.com/":                    "neither a name nor an address",
		"http://127.1/":                           "neither a name nor an address",
		"http://2130706433/":                      "neither a name nor an address",
		"http://0x7f000001/":                      "neither a name nor an address",
		"http://0x7f.0.0.0x1/":                    "neither a name nor an address",
		"http://0177.0.0.1/":                      "neither a name nor an address",
		"http://10.2.0.1/":                        "private",
		"http://172.31.0.1/":                      "private",
		"http://192.168.0.1/":                     "private",
		"http://169.254.169.254/latest/meta-data": "link-local",
		"http://168.63.129.16/":                   "metadata",
		"http://100.100.100.200/":                 "shared",
		"http://0.0.0.0/":                         "unspecified",
		"http://0.1.2.3/":                         "unspecified",
		"http://192.0.0.192/":                     "reserved",
		"http://192.0.2.1/":                       "documentation",
		"http://198.51.100.1/":                    "documentation",
		"http://203.0.113.1/":                     "documentation",
		"http://198.19.0.1/":                      "benchmarking",
		"http://224.0.0.1/":                       "multicast",
		"http://255.255.255.255/":                 "reserved",
		"http://[::1]/":                           "loopback",
		"http://[::]/":                            "unspecified",
		"http://[::ffff:127.0.0.1]/":              "mapped",
		"http://[::ffff:10.1.0.1]/":               "mapped",
		"http://[::ffff:8.8.8.8]/":                "mapped",
		"http://[::127.0.0.1]/":                   "compatible",
		"http://[64:ff9b::7f00:1]/":               "NAT64",
		"http://[64:ff9b:1::1]/":                  "NAT64",
		"http://[2002:7f00:1::]/":                 "6to4",
		"http://[2001:0:7f00:1::]/":               "Teredo",
		"http://[2001:2::1]/":                     "reserved",
		"http://[2001:db8::1]/":                   "documentation",
		"http://[3fff::1]/":                       "documentation",
		"http://[fd00:ec2::254]/":                 "private",
		"http://[fe80::1]/":                       "link-local",
		"http://[fe80::1%25eth0]/":                "one link",
		"http://[fec0::1]/":                       "reserved",
		"http://[ff02::1]/":                       "multicast",
		"http://[100::1]/":                        "reserved",
		"http://[4000::1]/":                       "reserved",
	} {
		_, err := client.ParseURL("http.url", bad)
		if !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "http.url: ") || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want one that says %q", bad, err, part)
		}
	}
}

func TestParseNetworks(t *testing.T) {
	t.Parallel()
	got, err := outbound.ParseNetworks([]string{"10.1.0.0/16", " fd00::/8", "127.0.0.1", "::1"})
	if want := "[10.1.0.0/16 fd00::/8 127.0.0.1/32 ::1/128]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"10.1.2.3/16", "10.0.0.0/33", "example.com", "", "fe80::1%eth0"} {
		if _, err := outbound.ParseNetworks([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestRefusedAddresses: what listens on an address that is not allowed is not reached, by any way of writing it, and not retried.
func TestRefusedAddresses(t *testing.T) {
	t.Parallel()
	server := serve(t, "127.0.0.1:0", ok)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	client := newClient(t, "")
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0"} {
		r := get(t, "http://"+host+":"+port)
		r.Retry = outbound.Retry{Attempts: 3}
		_, err := client.Do(context.Background(), r)
		wantRefused(t, err)
	}
	for _, host := range []string{"127.1", "2130706433", "0x7f.1"} {
		if _, err := client.Do(context.Background(), get(t, "http://"+host+":"+port)); err == nil || errs.Retryable(err) {
			t.Errorf("%s: %v, want an error for good", host, err)
		}
	}
	if n := server.hits.Load(); n != 0 {
		t.Errorf("the server was reached %d times", n)
	}
	reply, err := newClient(t, "127.0.0.0/8").Do(context.Background(), get(t, server.URL))
	wantStatus(t, reply, err, http.StatusOK)
}

// TestRebinding: a name that resolves to an allowed address and then to another gets no connection to that, which listens.
func TestRebinding(t *testing.T) {
	t.Parallel()
	inside := serve(t, "127.0.0.2:0", ok)
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	outside := serve(t, "127.0.0.1:"+port, ok)
	dns := &outboundtest.Names{Answers: map[string][][]netip.Addr{
		"rebind.example.": {addrs("127.0.0.1"), addrs("127.0.0.2")},
		"both.example.":   {addrs("127.0.0.2", "127.0.0.1")},
	}}
	client := newClient(t, "127.0.0.1/32", func(c *outbound.Config) { c.Resolver = dns.Resolver(t) })
	u, err := client.ParseURL("url", "http://rebind.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.Do(context.Background(), outbound.Request{Method: http.MethodGet, URL: u})
	wantStatus(t, reply, err, http.StatusOK)
	client.Close() // The next call resolves and connects anew.
	_, err = client.Do(context.Background(), outbound.Request{Method: http.MethodGet, URL: u})
	wantRefused(t, err)
	if strings.Contains(err.(*errs.Error).Message, "127.0.0.2") {
		t.Errorf("%q tells callers where the name leads", err.(*errs.Error).Message)
	}
	reply, err = client.Do(context.Background(), get(t, "http://both.example:"+port))
	wantStatus(t, reply, err, http.StatusOK)
	if inside.hits.Load() != 0 || outside.hits.Load() != 2 {
		t.Errorf("%d calls came inside, %d outside, want 0 and 2", inside.hits.Load(), outside.hits.Load())
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	inside := serve(t, "127.0.0.2:0", ok)
	other := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen", r.Header.Get("Authorization"))
		ok(w, r)
	})
	server := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{"/inside": inside.URL, "/other": other.URL, "/file": "file:///etc/passwd", "/again": "/again", "/here": "/end", "/user": "http://u:p@" + r.Host}[r.URL.Path]
		if r.URL.Path == "/end" {
			w.Header().Set("Seen", r.Header.Get("Authorization"))
			ok(w, r)
			return
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	})
	client := newClient(t, "127.0.0.1/32")
	call := func(method, path string, redirects int) (*outbound.Reply, error) {
		r := get(t, server.URL+path)
		r.Method, r.Redirects, r.Header = method, redirects, http.Header{"Authorization": {"secret"}}
		return client.Do(context.Background(), r)
	}
	reply, err := call(http.MethodGet, "/here", 0)
	wantStatus(t, reply, err, http.StatusTemporaryRedirect)
	reply, err = call(http.MethodPost, "/here", 5)
	wantStatus(t, reply, err, http.StatusTemporaryRedirect)
	reply, err = call(http.MethodGet, "/here", 5)
	if wantStatus(t, reply, err, http.StatusOK); reply.Header.Get("Seen") != "secret" {
		t.Error("the same host was not sent the header")
	}
	reply, err = call(http.MethodGet, "/other", 5)
	if wantStatus(t, reply, err, http.StatusOK); reply.Header.Get("Seen") != "" {
		t.Error("another host was sent the header")
	}
	before := server.hits.Load()
	reply, err = call(http.MethodGet, "/again", 5)
	if wantStatus(t, reply, err, http.StatusTemporaryRedirect); server.hits.Load()-before != 6 {
		t.Errorf("%d calls for 5 redirects", server.hits.Load()-before)
	}
	for _, path := range []string{"/inside", "/file", "/user"} {
		if _, err := call(http.MethodGet, path, 5); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, want that the redirect is refused", path, err)
		}
	}
	if inside.hits.Load() != 0 {
		t.Error("a redirect led inside")
	}
}

// TestProxy: calls go through the proxy, which is asked for the name; what names a refused address is not sent to it.
func TestProxy(t *testing.T) {
	t.Parallel()
	var asked []string
	proxy := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		ok(w, r)
	})
	u, err := outbound.ParseProxy("http://user:password@" + proxy.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, "", func(c *outbound.Config) { c.Proxy = u })
	reply, err := client.Do(context.Background(), get(t, "http://name.example/path"))
	wantStatus(t, reply, err, http.StatusOK)
	if _, err := client.Do(context.Background(), get(t, "https://name.example/path")); !errs.Is(err, errs.Unavailable) || strings.Contains(err.Error(), "password") {
		t.Errorf("%v, want unavailable", err)
	}
	for _, host := range []string{"169.254.169.254", "169。254。169。254", "ⓛocalhost"} {
		_, err = client.Do(context.Background(), get(t, "http://"+host+"/latest"))
		wantRefused(t, err)
	}
	want := []string{"GET name.example Basic dXNlcjpwYXNzd29yZA==", "CONNECT name.example:443 Basic dXNlcjpwYXNzd29yZA=="}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("the proxy was asked %q, want %q", asked, want)
	}
	for text, good := range map[string]bool{
		"socks5://h:1080": true, "socks5h://h:1080": true, "https://u:p@h": true, "": true, "ftp://h": false, "h:8080": false, "http://": false, "http://h/path": false,
	} {
		u, err := outbound.ParseProxy(text)
		if (err == nil) != good || text == "" && u != (*url.URL)(nil) {
			t.Errorf("ParseProxy(%q) = %v, %v", text, u, err)
		}
	}
}

// TestProxySecrets has proxies that are away, that refuse, and that break off. No error shows the password for them.
func TestProxySecrets(t *testing.T) {
	t.Parallel()
	const password = "Canary3f9a1c"
	refusing := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proxy-Authenticate", "Basic")
		http.Error(w, r.Header.Get("Proxy-Authorization"), http.StatusProxyAuthRequired)
	})
	breaking := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, proxy := range []string{
		"http://%s@127.0.0.1:1", "https://%s@127.0.0.1:1", "socks5://%s@127.0.0.1:1", "http://%s@" + refusing.Listener.Addr().String(),
		"https://%s@" + refusing.Listener.Addr().String(), "socks5://%s@" + refusing.Listener.Addr().String(), "http://%s@" + breaking.Listener.Addr().String(),
	} {
		u, err := outbound.ParseProxy(fmt.Sprintf(proxy, "user:"+password))
		if err != nil {
			t.Fatal(err)
		}
		client := newClient(t, "", func(c *outbound.Config) { c.Proxy, c.Timeout = u, time.Second })
		for _, target := range []string{"http://name.example/", "https://name.example/"} {
			reply, err := client.Do(context.Background(), get(t, target))
			switch {
			case err == nil && reply.StatusCode != http.StatusProxyAuthRequired:
				t.Errorf("%s by %s: %d", target, proxy, reply.StatusCode)
			case err != nil && strings.Contains(fmt.Sprintf("%v %+v %v", err, err, errors.Unwrap(err)), password):
				t.Errorf("%s by %s: the error has the password: %v", target, proxy, err)
			}
		}
	}
}
