package app

import (
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
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/rpc"
)

// TestCertificateIsRenewed replaces the files as Kubernetes does, by another target of a symbolic link, first by such that do
// not load.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "data")
	swap := func(serial int64, broken bool) {
		t.Helper()
		target := filepath.Join(dir, rand.Text())
		if err := os.Mkdir(target, 0o700); err != nil {
			t.Fatal(err)
		}
		cert, key := newCertificate(t, serial)
		if broken {
			key = key[:len(key)/2]
		}
		for name, content := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
			if err := os.WriteFile(filepath.Join(target, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fresh := link + ".new"
		if err := os.Symlink(target, fresh); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(fresh, link); err != nil {
			t.Fatal(err)
		}
	}
	swap(1, false)
	core, logs := observer.New(zap.InfoLevel)
	c, err := loadCertificate(filepath.Join(link, "tls.crt"), filepath.Join(link, "tls.key"), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(http.NotFoundHandler(), zap.NewNop())
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	go func() { _ = serve(server, listener) }()
	defer server.Close()
	wantSerial := func(want int64) {
		t.Helper()
		conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != want {
			t.Errorf("served is the certificate %d, want %d", got, want)
		}
	}
	wantSerial(1)
	old, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()

	swap(2, true)
	for range 3 {
		c.reload()
	}
	wantSerial(1)
	if err := os.Rename(link, link+".gone"); err != nil {
		t.Fatal(err)
	}
	c.reload()
	wantSerial(1)
	if told := logs.FilterMessageSnippet("is not renewed").Len(); told != 1 {
		t.Errorf("files that do not load are told of %d times, want once", told)
	}
	swap(3, false)
	c.reload()
	wantSerial(3)
	c.reload()
	if told := logs.FilterMessage("the TLS certificate is renewed").Len(); told != 1 {
		t.Errorf("a renewal is told of %d times, want once", told)
	}
	swap(4, true)
	c.reload()
	if told := logs.FilterMessageSnippet("is not renewed").Len(); told != 2 {
		t.Errorf("after a renewal, files that do not load are not told of again")
	}
	if _, err := io.WriteString(old, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	if _, err := old.Read(make([]byte, 1)); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.watch(ctx); err != nil {
		t.Error(err)
	}
}

func newCertificate(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
