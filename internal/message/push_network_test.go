package message_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plinth/internal/message"
	"plinth/internal/outbound"
	"plinth/internal/outbound/outboundtest"
)

// calling returns the fixture with a worker that calls out as calls say.
func calling(t *testing.T, calls func(*outbound.Config)) fixture {
	t.Helper()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{}, calls)
	run(t, f.Run)
	f.worker(t, time.Second)
	return f
}

// A name that leads to an address that is not allowed when a message is to be pushed gets none, though it led elsewhere before.
func TestPushToANameThatMoves(t *testing.T) {
	t.Parallel()
	var inside, outside atomic.Int64
	counted := func(n *atomic.Int64) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.Header().Set("Connection", "close") // So that the next call resolves the name anew.
		}
	}
	private := listening(t, "127.0.0.2:0", counted(&inside))
	_, port, _ := net.SplitHostPort(private)
	listening(t, "127.0.0.1:"+port, counted(&outside))
	public, hidden := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	dns := &outboundtest.Names{Answers: map[string][][]netip.Addr{"moves.example.": {{public}, {public}, {hidden}, {public}}}}
	f := calling(t, func(c *outbound.Config) {
		c.Allowed, c.Resolver = []netip.Prefix{netip.PrefixFrom(public, 32)}, dns.Resolver(t)
	})
	policy := pushTo("http://moves.example:" + port + "/hook")
	policy.MaxAttempts = 1
	q := f.pushes(t, "q", policy)
	for n := range int64(2) {
		f.publish(t, q.Name, "x")
		f.becomes(t, q.Name, "it is taken", func(q message.Queue) bool { return isEmpty(q) && outside.Load() == n+1 })
	}
	f.publish(t, q.Name, "x")
	is := f.becomes(t, q.Name, "it is a dead letter, and that is told", func(q message.Queue) bool {
		return q.Stats.DeadLetters == 1 && q.PushStatus != nil && q.PushStatus.LastError != ""
	})
	if inside.Load() != 0 || outside.Load() != 2 {
		t.Errorf("%d calls came inside, and %d outside", inside.Load(), outside.Load())
	}
	if why := is.PushStatus.LastError; !strings.Contains(why, "leads to a loopback address, which is not allowed") || strings.Contains(why, "127.0.0.2") {
		t.Errorf("the reason is %q", why)
	}
	f.publish(t, q.Name, "x") // It leads back.
	f.becomes(t, q.Name, "it is taken", func(q message.Queue) bool { return isEmpty(q) && q.Stats.DeadLetters == 1 && outside.Load() == 3 })
}

// listening serves an address until the test ends, and returns it.
func listening(t *testing.T, address string, handler http.HandlerFunc) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return listener.Addr().String()
}

// A certificate that was good until yesterday is none.
func TestPushToAnExpiredCertificate(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	lasting := func(until time.Duration) *tls.Certificate {
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "endpoint"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(until),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		signed, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
	}
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(trusted)
	f := calling(t, func(c *outbound.Config) { c.TLS = &tls.Config{RootCAs: roots} })

	var has atomic.Pointer[tls.Certificate]
	has.Store(lasting(-24 * time.Hour))
	var calls atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*has.Load()}}, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	policy := pushTo(server.URL)
	policy.MaxAttempts = 1
	q := f.pushes(t, "q", policy)
	f.publish(t, q.Name, "x")
	is := f.becomes(t, q.Name, "that it fails is told", func(q message.Queue) bool {
		return q.Stats.DeadLetters == 1 && q.PushStatus != nil && q.PushStatus.LastError != ""
	})
	if !strings.Contains(is.PushStatus.LastError, "the certificate is not valid for it") || calls.Load() != 0 {
		t.Errorf("%d calls, %+v", calls.Load(), is.PushStatus)
	}
	has.Store(lasting(24 * time.Hour))
	f.publish(t, q.Name, "y")
	f.becomes(t, q.Name, "it is taken", func(q message.Queue) bool { return isEmpty(q) && calls.Load() == 1 && q.Stats.DeadLetters == 1 })
}
