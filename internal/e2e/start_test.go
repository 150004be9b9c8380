package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/pg/pgtest"
)

// Ten servers that start at once on an empty database migrate it once and become ready. They have 60 connections to PostgreSQL,
// so no other test runs meanwhile.
func TestManyServersStartAtOnce(t *testing.T) {
	env := with(backends(t, "postgres"), map[string]string{"DATABASE_URL": pgtest.NewEmpty(t), "DATABASE_MAX_CONNS": "3"})
	servers := make([]*process, 10)
	for i := range servers {
		servers[i] = start(t, "server", env)
	}
	for _, server := range servers {
		ready(t, "http://"+server.address(t))
	}
	var stopping sync.WaitGroup
	for _, server := range servers {
		stopping.Go(func() { server.stop(t) })
	}
	stopping.Wait()
}

// A first start while a backend is away is not a failure: the process lives, reports that it is not ready, answers quickly,
// and serves once the backend is there. Redis is useful, but not needed.
func startsWithoutABackend(t *testing.T, broker string) {
	type absence struct {
		variable, check string
		needed          bool
	}
	for _, test := range map[string][]absence{
		"postgres": {{"DATABASE_URL", "postgres", true}, {"REDIS_URL", "redis", false}},
		"rabbitmq": {{"AMQP_URL", "rabbitmq", true}, {"DATABASE_URL", "postgres", true}},
	}[broker] {
		t.Run(test.check+" is away", func(t *testing.T) {
			env := backends(t, broker)
			proxy, through := newProxy(t, env[test.variable])
			env[test.variable] = through
			server, worker := start(t, "server", env), start(t, "worker", env)
			base := "http://" + server.address(t)
			if got := statusOf(base + "/livez"); got != http.StatusOK {
				t.Errorf("/livez answers %d", got)
			}
			if test.needed {
				awayAndNeeded(t, base, broker)
			} else {
				ready(t, base)
			}
			eventually(t, "/health tells of "+test.check, func() bool {
				return bytes.Contains(bodyOf(base+"/health"), []byte(`"`+test.check+`":"unavailable"`))
			})

			proxy.open()
			ready(t, base)
			eventually(t, "/health tells that all is well", func() bool {
				return bytes.Contains(bodyOf(base+"/health"), []byte(`"`+test.check+`":"ok"`))
			})
			id := publish(t, grpcClient(t, base), taskQueue, "late")[0]
			worker.says(t, `message handled.*`+id)
			server.stop(t)
			worker.stop(t)
		})
	}
}

func awayAndNeeded(t *testing.T, base, broker string) {
	t.Helper()
	if got := statusOf(base + "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", got)
	}
	before := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := grpcClient(t, base).Publish(ctx, &messagev1.PublishRequest{Queue: taskQueue,
		Payload: &messagev1.PublishRequest_Message{Message: "early"}})
	wantCode(t, err, connect.CodeUnavailable)
	if took := time.Since(before); took > 10*time.Second {
		t.Errorf("on %s it took %s to answer that", broker, took)
	}
}

func bodyOf(url string) []byte {
	client := http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	res, err := client.Get(url)
	if err != nil {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	return body
}

// With a certificate the port speaks TLS, and HTTP/2 with clients that ask for it.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, key, roots := selfSigned(t)
	env := with(backends(t, "postgres"), map[string]string{"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key})
	server := start(t, "server", env)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: keyed{transport, adminKey}}
	base := "https://" + server.address(t)
	eventually(t, "the server is ready", func() bool {
		res, err := client.Get(base + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.ProtoMajor != 2 {
			t.Fatalf("it speaks %s", res.Proto)
		}
		return res.StatusCode == http.StatusOK
	})
	rpc := messagev1.NewMessageServiceClient(client, base, connect.WithGRPC())
	newQueue(t, rpc, "tls")
	publish(t, rpc, "tls", "over TLS")
	c := consume(t, rpc, &messagev1.Subscribe{Queue: "tls"})
	c.ack(t, c.next(t).GetId())
	c.end(t)
	if got := statusOf("http://" + server.address(t) + "/livez"); got == http.StatusOK {
		t.Error("it answers without TLS, too")
	}

	renewed, renewedKey, roots := selfSigned(t)
	for from, to := range map[string]string{renewed: certificate, renewedKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	server.says(t, "the TLS certificate is renewed")
	fresh := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(fresh.CloseIdleConnections)
	if res, err := (&http.Client{Transport: fresh}).Get(base + "/livez"); err != nil {
		t.Errorf("with the renewed certificate: %v", err)
	} else {
		_ = res.Body.Close()
	}
	server.stop(t)
}

func selfSigned(t testing.TB) (certificateFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", private), roots
}
